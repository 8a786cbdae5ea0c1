// Tiles of Intel's AMX: squares of words that are multiplied at once.
//
// A tile has up to 16 rows of up to 16 words. MultiplyAdd adds, for every row and column, the products of a row of words
// with a column of words, each of two bfloat16 numbers, to a sum in float32.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#define JAXMIA_TILES 1
#endif

namespace jaxmia {

// Rows of a tile, words of a row, and words of a tile.
constexpr int kTileRows = 16, kTileWords = kTileRows * kTileRows;

// Cuts `length` into as few equal parts of at most a tile's rows as there can be, the last of which may be shorter.
struct Cut {
  int64_t count, size;

  explicit Cut(int64_t length)
      : count((length + kTileRows - 1) / kTileRows), size(count ? (length + count - 1) / count : 0) {}

  int64_t filled() const { return count * size; }
};

#if defined(JAXMIA_TILES)

// Whether this process may use tiles, for which it asks the system once.
inline bool HasTiles() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return granted;
}

// Sizes of this thread's tiles, for as long as it lives: sums in 0 to 3 of `rows` rows, left factors in 4 and 5 with as
// many rows of `depth` words, and right factors in 6 and 7 of `depth` rows.
class TileSizes {
 public:
  TileSizes(int64_t rows, int64_t depth) {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } sizes;
    for (int tile = 0; tile < 8; ++tile) {
      const bool left = tile == 4 || tile == 5;
      sizes.bytes[tile] = (left ? depth : kTileRows) * sizeof(float);
      sizes.rows[tile] = tile < 6 ? rows : depth;
    }
    asm volatile("ldtilecfg %0" ::"m"(sizes));
  }
  ~TileSizes() { asm volatile("tilerelease"); }
  TileSizes(const TileSizes&) = delete;
};

// Rows are `step` words apart.
template <int kTile>
inline void TileLoad(const float* from, int64_t step) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(step * sizeof(float)), "i"(kTile) : "memory");
}

template <int kTile>
inline void TileStore(float* to, int64_t step) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(step * sizeof(float)), "i"(kTile) : "memory");
}

template <int kTile>
inline void TileZero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

template <int kSum, int kLeft, int kRight>
inline void MultiplyAdd() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kLeft), "i"(kRight));
}

template <typename Work, int... kIndex>
void Each(Work work, std::integer_sequence<int, kIndex...>) {
  (work(std::integral_constant<int, kIndex>()), ...);
}

// Calls work(i) for constants from zero to kCount.
template <int kCount, typename Work>
void Each(Work work) {
  Each(work, std::make_integer_sequence<int, kCount>());
}

// Calls work(first, count) with constant counts: as often as possible kMost, then half of it, and so on.
template <int kMost, typename Work>
void InSteps(int64_t begin, int64_t end, Work work) {
  for (; begin + kMost <= end; begin += kMost) work(begin, std::integral_constant<int, kMost>());
  if constexpr (kMost > 1) InSteps<kMost / 2>(begin, end, work);
}

// Left factors that are multiplied with so many right ones at once: there are four tiles for sums.
constexpr int LeftFactors(int right) { return 4 / right; }

// Adds the products of left and right factors, where left(l) and right(r) are their words, to sums l * kRight + r.
template <int kLeft, int kRight, typename Left, typename Right>
void AddProducts(Left left, int64_t left_step, Right right) {
  Each<kRight>([&](auto r) { TileLoad<6 + r>(right(r), kTileRows); });
  Each<kLeft>([&](auto l) {
    TileLoad<4 + l % 2>(left(l), left_step);
    Each<kRight>([&](auto r) { MultiplyAdd<l * kRight + r, 4 + l % 2, 6 + r>(); });
  });
}

// Words of a number of two samples each, which are zero where there is no second: one or two vectors of them.
template <int kVectors>
void JoinPairs(const uint16_t* first, const uint16_t* second, int64_t count, Vector (&words)[kVectors]) {
  static const uint16_t zeros[2 * kLanes] = {};
  if (!second) second = zeros;
  if constexpr (kVectors == 2) {
    const __m512i low = _mm512_loadu_si512(first), high = _mm512_loadu_si512(second);
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i begin = _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(32)), 16));
    words[0] = (Vector)_mm512_permutex2var_epi16(low, begin, high);
    words[1] = (Vector)_mm512_permutex2var_epi16(low, _mm512_add_epi16(begin, _mm512_set1_epi16(kLanes)), high);
  } else {
    words[0] = BFloat16::Join(BFloat16::Widen(first, count), BFloat16::Widen(second, count));
  }
}

// Calls work(i, count, vectors) for parts of `length` numbers: two vectors of them, of constant number, then one.
template <typename Work>
void InVectors(int64_t length, Work work) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= length; i += 2 * kLanes) work(i, 2 * kLanes, std::integral_constant<int, 2>());
  for (; i < length; i += kLanes) work(i, std::min<int64_t>(kLanes, length - i), std::integral_constant<int, 1>());
}

// Numbers [sample, `length`], transposed: words [number, 16 pairs of samples], those beyond the samples zero.
inline void FillPairs(const uint16_t* first, int64_t step, int64_t samples, int64_t length, float* words) {
  InVectors(length, [&](int64_t i, int64_t count, auto vectors) {
    Vector rows[vectors][kLanes] = {};
    for (int64_t n = 0; n < samples; n += 2) {
      Vector pair[vectors];
      const uint16_t* from = first + n * step + i;
      JoinPairs<vectors>(from, n + 1 < samples ? from + step : nullptr, count, pair);
      for (int v = 0; v < vectors; ++v) rows[v][n / 2] = pair[v];
    }
    for (int v = 0; v < vectors; ++v) {
      Transpose(rows[v]);
      for (int64_t row = 0; row < std::min<int64_t>(kLanes, count - v * kLanes); ++row)
        Store(words + (i + v * kLanes + row) * kTileRows, rows[v][row]);
    }
  });
}

#else

inline bool HasTiles() { return false; }

#endif

// Whether products in this arithmetic are computed in tiles.
template <class Arithmetic>
bool UsesTiles() {
  return Arithmetic::kNumbers == 2 && HasTiles();
}

}  // namespace jaxmia
