// Arithmetic of the kernels in words of 32 bits: one float32, or two bfloat16 whose products are added in float32.

#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace jaxmia {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Vectors that are summed at once, of the 32 or 16 registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 24;
#else
constexpr int kSums = 12;
#endif

// Aligned like the types of intrinsics, since GCC copies vectors between types of different alignment.
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), may_alias));
typedef Vector Unaligned __attribute__((aligned(4)));

// An integer for each word of a vector.
typedef int32_t Lanes __attribute__((vector_size(kLanes * sizeof(int32_t)), may_alias));

inline int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Words from row to row: whole vectors, an odd number of them, since rows a power of two apart share few sets of a cache.
inline int64_t Spaced(int64_t words) { return (RoundUp(words, kLanes) / kLanes | 1) * kLanes; }

inline Vector Load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }

#if defined(__AVX512F__)
// Mask of the first `count` lanes, of fewer than all.
inline __mmask16 FirstLanes(int64_t count) { return (1 << count) - 1; }
#endif

// A word in every lane. As an integer, since AMD's Zen 4 takes a quarter longer for products of broadcast floats.
inline Vector Broadcast(const float* from) {
#if defined(__AVX512F__)
  int32_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return (Vector)_mm512_set1_epi32(bits);
#else
  return *from - Vector{};
#endif
}

inline void Store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }

// Vectors to compute in: whole ones, or halves, which take half the time and are as good for half as many numbers.
struct Whole {
  using Type = Vector;
  static constexpr int kCount = kLanes;

  static Vector Read(const float* from) { return Load(from); }
  static Vector Spread(const float* from) { return Broadcast(from); }
  static Vector Widen(Vector value) { return value; }
};

#if defined(__AVX512VL__)
struct Half {
  using Type = __m256;
  static constexpr int kCount = kLanes / 2;

  static __m256 Read(const float* from) { return _mm256_loadu_ps(from); }
  static __m256 Spread(const float* from) {
    int32_t bits;
    std::memcpy(&bits, from, sizeof(bits));
    return (__m256)_mm256_set1_epi32(bits);
  }
  static Vector Widen(__m256 value) { return (Vector)_mm512_zextps256_ps512(value); }
};
#else
using Half = Whole;
#endif

// Words of one or of two vectors, from these lanes on.
#if defined(__AVX512F__)
constexpr bool kPermutes = true;

inline Vector Permute(Vector words, Lanes lanes) {
  return (Vector)_mm512_permutexvar_ps((__m512i)lanes, (__m512)words);
}

inline Vector PermuteBoth(Vector first, Vector second, Lanes lanes) {
  return (Vector)_mm512_permutex2var_ps((__m512)first, (__m512i)lanes, (__m512)second);
}
#elif defined(__AVX2__)
constexpr bool kPermutes = true;

inline Vector Permute(Vector words, Lanes lanes) {
  return (Vector)_mm256_permutevar8x32_ps((__m256)words, (__m256i)lanes);
}

inline Vector PermuteBoth(Vector first, Vector second, Lanes lanes) {
  return lanes < kLanes ? Permute(first, lanes) : Permute(second, lanes);
}
#else
constexpr bool kPermutes = false;  // too slowly

inline Vector Permute(Vector words, Lanes) { return words; }
inline Vector PermuteBoth(Vector first, Vector, Lanes) { return first; }
#endif

// Exchanges rows and columns of a square of words.
inline void Transpose(Vector (&rows)[kLanes]) {
#if defined(__AVX512F__)
  // Exchanges the blocks of `size` off the diagonal within each block of twice the size.
#pragma GCC unroll 4
  for (int size = 1; size < kLanes; size *= 2) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __mmask16 odd = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(size));
    const __m512i upper = _mm512_mask_add_epi32(lane, odd, lane, _mm512_set1_epi32(kLanes - size));
    const __m512i lower = _mm512_add_epi32(upper, _mm512_set1_epi32(size));
#pragma GCC unroll 16
    for (int row = 0; row < kLanes; ++row) {
      if (row & size) continue;
      const __m512 first = (__m512)rows[row], second = (__m512)rows[row + size];
      rows[row] = (Vector)_mm512_permutex2var_ps(first, upper, second);
      rows[row + size] = (Vector)_mm512_permutex2var_ps(first, lower, second);
    }
  }
#else
  for (int row = 0; row < kLanes; ++row) {
    for (int column = 0; column < row; ++column) {
      const float word = rows[row][column];
      rows[row][column] = rows[column][row];
      rows[column][row] = word;
    }
  }
#endif
}

// Words of working memory, zero at first, that begin with a line of the cache.
class Scratch {
 public:
  explicit Scratch(int64_t words) : words_(static_cast<float*>(::operator new(words * sizeof(float), kLine))) {
    std::memset(words_.get(), 0, words * sizeof(float));
  }

  float* data() { return words_.get(); }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(float* words) const { ::operator delete(words, kLine); }
  };
  std::unique_ptr<float, Free> words_;
};

// Both types of numbers: `Widen` reads `count` of them, at most a vector, as float32, and `Round` writes them. Of
// float32 numbers, `Pair` makes words of one or of two vectors, and `Narrow` reads the words of `count` in a row.
struct Float32 {
  using Number = float;
  static constexpr int kNumbers = 1;

  // By name, since GCC computes some sums of products without fused multiply-adds, which round differently.
  static void Add(Vector& sum, Vector left, Vector right) {
#if defined(__AVX512F__)
    sum = (Vector)_mm512_fmadd_ps((__m512)left, (__m512)right, (__m512)sum);
#elif defined(__AVX__) && defined(__FMA__)
    sum = (Vector)_mm256_fmadd_ps((__m256)left, (__m256)right, (__m256)sum);
#else
    sum += left * right;
#endif
  }

#if defined(__AVX512VL__)
  static void Add(__m256& sum, __m256 left, __m256 right) { sum = _mm256_fmadd_ps(left, right, sum); }
#endif

  static Vector Widen(const Number* from, int64_t count) {
    if (count >= kLanes) return Load(from);
#if defined(__AVX512F__)
    return (Vector)_mm512_maskz_loadu_ps(FirstLanes(count), from);
#else
    Vector value = {};
    std::memcpy(&value, from, count * sizeof(Number));
    return value;
#endif
  }

  static void Round(Number* to, Vector value, int64_t count) {
    if (count >= kLanes) return Store(to, value);
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, FirstLanes(count), (__m512)value);
#else
    std::memcpy(to, &value, count * sizeof(Number));
#endif
  }

  static Vector Pair(Vector first, Vector) { return first; }

  static Vector Narrow(const float* from, int64_t count) { return Widen(from, count); }
};

#if defined(__AVX512BF16__)
struct BFloat16 {
  using Number = uint16_t;
  static constexpr int kNumbers = 2;

  static void Add(Vector& sum, Vector left, Vector right) {
    sum = (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
  }

  static void Add(__m256& sum, __m256 left, __m256 right) {
    sum = _mm256_dpbf16_ps(sum, (__m256bh)left, (__m256bh)right);
  }

  static Vector Widen(const Number* from, int64_t count) {
    const __m256i numbers = count >= kLanes ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))
                                            : _mm256_maskz_loadu_epi16(FirstLanes(count), from);
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16);
  }

  static void Round(Number* to, Vector value, int64_t count) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh((__m512)value);
    if (count >= kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
    } else {
      _mm256_mask_storeu_epi16(to, FirstLanes(count), rounded);
    }
  }

  // Words of numbers that are widened.
  static Vector Join(Vector low, Vector high) {
    return (Vector)_mm512_or_si512(_mm512_srli_epi32((__m512i)low, 16), (__m512i)high);
  }

  static Vector Pair(Vector first, Vector second) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return (Vector)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }

  static Vector Narrow(const float* from, int64_t count) {
    const Vector next = count > kLanes ? Float32::Widen(from + kLanes, count - kLanes) : Vector{};
    return (Vector)_mm512_cvtne2ps_pbh((__m512)next, (__m512)Float32::Widen(from, count));
  }
};
#endif

// Number of words that hold `count` numbers.
template <class Arithmetic>
int64_t Words(int64_t count) {
  return (count + Arithmetic::kNumbers - 1) / Arithmetic::kNumbers;
}

// Copies words that are fewer than `std::memcpy` is fast for.
inline void CopyWords(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += kLanes) Float32::Round(to + i, Float32::Widen(from + i, count - i), count - i);
}

// Words that hold the same number of successive samples, `step` numbers apart; those beyond `samples` are zero.
template <class Arithmetic>
void Interleave(const typename Arithmetic::Number* first, int64_t step, int64_t samples, int64_t count, float* words) {
  if constexpr (Arithmetic::kNumbers == 1) {
    CopyWords(first, count, words);
  } else {
    for (int64_t i = 0; i < count; i += kLanes) {
      const Vector low = Arithmetic::Widen(first + i, count - i);
      const Vector high = samples > 1 ? Arithmetic::Widen(first + step + i, count - i) : Vector{};
      Float32::Round(words + i, Arithmetic::Join(low, high), count - i);
    }
  }
}

}  // namespace jaxmia
