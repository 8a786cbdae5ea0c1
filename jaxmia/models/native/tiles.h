// Tiles of Intel's AMX: squares of words that are multiplied at once.
//
// A tile has up to 16 rows of up to 16 words. MultiplyAdd adds, for every row and column, the products of a row of words
// with a column of words, each of two bfloat16 numbers, to a sum in float32.

#pragma once

#include <algorithm>
#include <cstdint>

#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#define JAXMIA_TILES 1
#endif

namespace jaxmia {

// Rows of a tile, words of a row, and words of a tile.
constexpr int kTileRows = 16, kTileWords = kTileRows * kTileRows;

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

#else

inline bool HasTiles() { return false; }

#endif

// Whether products in this arithmetic are computed in tiles.
template <class Arithmetic>
bool UsesTiles() {
  return Arithmetic::kNumbers == 2 && HasTiles();
}

}  // namespace jaxmia
