// Arithmetic of the kernels in words of 32 bits: one float32, or two bfloat16 whose products are added in float32.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
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

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

inline Vector Load(const float* from) { return *reinterpret_cast<const Vector*>(from); }

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

inline void Store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

// Both types of numbers: `Widen` reads `count` of them, at most a vector, as float32, and `Round` writes them.
struct Float32 {
  using Number = float;
  static constexpr int kNumbers = 1;

  static void Add(Vector& sum, Vector left, Vector right) { sum += left * right; }

  static Vector Widen(const Number* from, int64_t count) {
    if (count >= kLanes) return Load(from);
    Vector value = {};
    std::memcpy(&value, from, count * sizeof(Number));
    return value;
  }

  static void Round(Number* to, Vector value, int64_t count) {
    if (count >= kLanes) {
      Store(to, value);
    } else {
      std::memcpy(to, &value, count * sizeof(Number));
    }
  }
};

#if defined(__AVX512BF16__)
struct BFloat16 {
  using Number = uint16_t;
  static constexpr int kNumbers = 2;

  static void Add(Vector& sum, Vector left, Vector right) {
    sum = (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
  }

  static Vector Widen(const Number* from, int64_t count) {
    __m256i numbers = _mm256_setzero_si256();
    if (count >= kLanes) {
      numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    } else {
      std::memcpy(&numbers, from, count * sizeof(Number));
    }
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16);
  }

  static void Round(Number* to, Vector value, int64_t count) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)value);
    if (count >= kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)rounded);
    } else {
      std::memcpy(to, &rounded, count * sizeof(Number));
    }
  }
};
#endif

// Number of words that hold `count` numbers.
template <class Arithmetic>
int64_t Words(int64_t count) {
  return (count + Arithmetic::kNumbers - 1) / Arithmetic::kNumbers;
}

}  // namespace jaxmia
