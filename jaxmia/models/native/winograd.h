// Convolutions of three by three taps and stride one, by minimal filtering (Winograd 1980; Lavin and Gray 2016).
//
// An image is cut into tiles of 4 x 4 outputs, which depend on patches of 6 x 6 inputs. Patches, taps and tiles are
// evaluated as polynomials, row by row and column by column, at six points, where a convolution is a product of values:
//   value of an output[t, f] = sum over c of value of a patch[t, c] * value of the taps[c, f]     at each of the points
// That is 36 multiply-adds for a tile, an input channel and a feature, of 144 that its definition has. The kernel
// gradient sums the products of patches and cotangents at each point over all tiles. The points 0, 3/4, -3/4, 3/2,
// -3/2 and infinity keep rounding small, and values are float32.

#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "threads.h"
#include "tiles.h"
#include "windows.h"

namespace jaxmia {

constexpr int kTaps = 3, kTile = 4, kPatch = kTile + kTaps - 1, kPoints = kPatch * kPatch;
// Absolute values of the points besides 0 and infinity, and their squares.
constexpr float kNear = .75f, kFar = 1.5f, kNear2 = kNear * kNear, kFar2 = kFar * kFar;
// Products of the differences of a point to the others.
constexpr float kAtZero = kNear2 * kFar2, kAtNear = 2 * kNear2 * (kNear2 - kFar2), kAtFar = 2 * kFar2 * (kFar2 - kNear2);

// Words of the values that a thread works on at a time: those of taps, and, unless so few tiles have more, of patches.
constexpr int64_t kTapWords = 1 << 22, kPatchWords = 1 << 16, kLeastTiles = 32;

template <size_t kSize>
using Line = std::array<Vector, kSize>;

// The five transforms along an axis. Those of patches and taps give values at points; that of outputs takes values to
// numbers; those of the kernel gradient, of cotangents and of sums, are the transposes of outputs' and taps'.
struct PatchValues {
  Line<6> operator()(const Line<6>& in) const {
    const Vector near_even = in[4] - kFar2 * in[2], near_odd = kNear * (in[3] - kFar2 * in[1]);
    const Vector far_even = in[4] - kNear2 * in[2], far_odd = kFar * (in[3] - kNear2 * in[1]);
    return {kAtZero * in[0] - (kNear2 + kFar2) * in[2] + in[4],
            near_even + near_odd,
            near_even - near_odd,
            far_even + far_odd,
            far_even - far_odd,
            kAtZero * in[1] - (kNear2 + kFar2) * in[3] + in[5]};
  }
};

struct TapValues {
  Line<6> operator()(const Line<3>& in) const {
    const Vector near_even = (in[0] + kNear2 * in[2]) * (1 / kAtNear), near_odd = in[1] * (kNear / kAtNear);
    const Vector far_even = (in[0] + kFar2 * in[2]) * (1 / kAtFar), far_odd = in[1] * (kFar / kAtFar);
    return {in[0] * (1 / kAtZero), near_even + near_odd, near_even - near_odd,
            far_even + far_odd,    far_even - far_odd,   in[2]};
  }
};

struct Outputs {
  Line<4> operator()(const Line<6>& in) const {
    const Vector near_even = in[1] + in[2], near_odd = kNear * (in[1] - in[2]);
    const Vector far_even = in[3] + in[4], far_odd = kFar * (in[3] - in[4]);
    return {in[0] + near_even + far_even, near_odd + far_odd, kNear2 * near_even + kFar2 * far_even,
            kNear2 * near_odd + kFar2 * far_odd + in[5]};
  }
};

struct CotangentValues {
  Line<6> operator()(const Line<4>& in) const {
    const Vector near_even = in[0] + kNear2 * in[2], near_odd = kNear * (in[1] + kNear2 * in[3]);
    const Vector far_even = in[0] + kFar2 * in[2], far_odd = kFar * (in[1] + kFar2 * in[3]);
    return {in[0], near_even + near_odd, near_even - near_odd, far_even + far_odd, far_even - far_odd, in[3]};
  }
};

struct TapSums {
  Line<3> operator()(const Line<6>& in) const {
    const Vector near_even = (in[1] + in[2]) * (1 / kAtNear), near_odd = (in[1] - in[2]) * (kNear / kAtNear);
    const Vector far_even = (in[3] + in[4]) * (1 / kAtFar), far_odd = (in[3] - in[4]) * (kFar / kAtFar);
    return {in[0] * (1 / kAtZero) + near_even + far_even, near_odd + far_odd,
            kNear2 * near_even + kFar2 * far_even + in[5]};
  }
};

// Transforms both axes of a square whose vectors are read(i, j), and calls write(i, j, vector) with the result.
template <int kFrom, int kTo, class Transform, typename Read, typename Write>
inline void Both(Transform transform, Read read, Write write) {
  Line<kFrom> half[kTo];
#pragma GCC unroll 6
  for (int j = 0; j < kFrom; ++j) {
    Line<kFrom> column;
#pragma GCC unroll 6
    for (int i = 0; i < kFrom; ++i) column[i] = read(i, j);
    const Line<kTo> done = transform(column);
#pragma GCC unroll 6
    for (int i = 0; i < kTo; ++i) half[i][j] = done[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kTo; ++i) {
    const Line<kTo> done = transform(half[i]);
#pragma GCC unroll 6
    for (int j = 0; j < kTo; ++j) write(i, j, done[j]);
  }
}

// Values [point, panel, row, column] of words. Points are an odd number of the cache's lines apart, as they are written at
// once and those a power of two apart would share a set of the cache.
struct Values {
  int64_t rows, panel, apart;

  Values(int64_t rows, int64_t columns, int64_t panel)
      : rows(rows), panel(panel), apart(RoundUp(rows * RoundUp(columns, panel), 32) + 16) {}

  int64_t size() const { return kPoints * apart; }

  int64_t At(int64_t row, int64_t column) const { return (column / panel * rows + row) * panel + column % panel; }

  // Distance of the value at point (i, j) from that at the first point.
  int64_t Point(int i, int j) const { return (i * kPatch + j) * apart; }
};

// Images [samples, height, width, groups * channels], cut into tiles.
struct Tiling {
  int64_t samples, height, width, channels, groups, down = (height + kTile - 1) / kTile,
                                                    across = (width + kTile - 1) / kTile;

  int64_t tiles() const { return samples * down * across; }
  int64_t all_channels() const { return groups * channels; }

  // Where the images of a group begin, counting the groups of one model after those of another.
  int64_t Begin(int64_t group) const {
    return (group / groups * samples * height * width * groups + group % groups) * channels;
  }

  // Calls work(i, j, number of the pixel) for those of kSize x kSize pixels that are in an image, from (top, left)
  // of a tile on.
  template <int kSize, typename Work>
  void EachPixel(int64_t tile, int64_t top, int64_t left, Work work) const {
    const int64_t sample = tile / (down * across);
    const int64_t first_row = tile / across % down * kTile + top, first_column = tile % across * kTile + left;
    for (int i = 0; i < kSize; ++i) {
      const int64_t y = first_row + i;
      if (y < 0 || y >= height) continue;
      for (int j = 0; j < kSize; ++j) {
        const int64_t x = first_column + j;
        if (x >= 0 && x < width) work(i, j, (sample * height + y) * width + x);
      }
    }
  }
};

// The values of `count` channels of the squares at (top, left) of the tiles from `begin` to `end`.
template <class Arithmetic, int kSize, class Transform>
void Evaluate(const Tiling& images, const typename Arithmetic::Number* numbers, int64_t count, int64_t begin,
              int64_t end, int64_t top, int64_t left, Transform transform, const Values& values, float* to) {
  const std::vector<typename Arithmetic::Number> zeros(count);
  for (int64_t tile = begin; tile < end; ++tile) {
    const typename Arithmetic::Number* from[kSize][kSize];
    std::fill_n(from[0], kSize * kSize, zeros.data());
    images.EachPixel<kSize>(tile, top, left,
                            [&](int i, int j, int64_t pixel) { from[i][j] = numbers + pixel * images.all_channels(); });
    const auto evaluate = [&](int64_t c, int64_t lanes) {
      float* first = to + values.At(tile - begin, c);
      Both<kSize, kPatch>(
          transform, [&](int i, int j) { return Arithmetic::Widen(from[i][j] + c, lanes); },
          [&](int i, int j, Vector value) { Store(first + values.Point(i, j), value); });
    };
    int64_t c = 0;
    for (; c + kLanes <= count; c += kLanes) evaluate(c, kLanes);
    if (c < count) evaluate(c, count - c);
  }
}

// The values of the taps of kernels [tap, row, column], with rows `pitch` numbers apart, for outputs from `begin` to
// `end`, which are columns; or, where they are `turned` for the input gradient, rows.
template <class Arithmetic>
void EvaluateTaps(const typename Arithmetic::Number* kernels, int64_t rows, int64_t columns, int64_t pitch, bool turned,
                  int64_t begin, int64_t end, const Values& values, float* to) {
  constexpr int kCount = kTaps * kTaps;
  const int64_t inputs = turned ? columns : rows;
  for (int64_t input = 0; input < inputs; input += kLanes) {
    for (int64_t output = begin; output < end; output += kLanes) {
      const int64_t row = turned ? output : input, column = turned ? input : output;
      Vector taps[kCount][kLanes];
      for (int tap = 0; tap < kCount; ++tap) {
        const auto* from = kernels + ((turned ? kCount - 1 - tap : tap) * rows + row) * pitch + column;
        for (int k = 0; k < kLanes; ++k)
          taps[tap][k] = row + k < rows ? Arithmetic::Widen(from + k * pitch, columns - column) : Vector{};
        if (turned) Transpose(taps[tap]);
      }
      for (int k = 0; k < std::min<int64_t>(kLanes, inputs - input); ++k) {
        float* first = to + values.At(input + k, output - begin);
        Both<kTaps, kPatch>(
            TapValues{}, [&](int i, int j) { return taps[i * kTaps + j][k]; },
            [&](int i, int j, Vector value) { Store(first + values.Point(i, j), value); });
      }
    }
  }
}

// Features in panels of two vectors, of which a thread works on a block at a time.
struct Blocks {
  int64_t features, panel, panels, count;

  Blocks(int64_t inputs, int64_t features)
      : features(features), panel(std::min<int64_t>(2 * kLanes, RoundUp(features, kLanes))) {
    const int64_t all = (features + panel - 1) / panel;
    const int64_t most = std::max<int64_t>(kTapWords / (kPoints * inputs * panel), 1);
    count = (all + most - 1) / most;
    panels = (all + count - 1) / count;
    count = (all + panels - 1) / panels;
  }

  int64_t begin(int64_t block) const { return block * panels * panel; }
  int64_t size(int64_t block) const { return std::min(panels * panel, features - begin(block)); }
};

// Tiles in a row of which products are sums.
constexpr int kRunOfTiles = 6;

inline int64_t BatchOfTiles(int64_t channels, int64_t features, int64_t tiles) {
  return std::clamp<int64_t>(kPatchWords / (kPoints * (channels + features)), std::min<int64_t>(tiles, kLeastTiles), tiles);
}

// Where the kernel [tap, channels, groups * features] of a group begins, counting those of one model after another.
inline int64_t BeginOfKernel(int64_t group, int64_t groups, int64_t channels, int64_t features) {
  return (group / groups * kTaps * kTaps * channels * groups + group % groups) * features;
}

// Outputs of all models of images whose patches begin (top, left) pixels from the tiles that they give.
template <class Arithmetic>
void MinimalProducts(Threads threads, int64_t models, const Tiling& images, const Tiling& outputs, int64_t top,
                     int64_t left, bool turned, const typename Arithmetic::Number* numbers,
                     const typename Arithmetic::Number* kernels, typename Arithmetic::Number* results) {
  const int64_t channels = images.channels, features = outputs.channels, tiles = outputs.tiles();
  const int64_t groups = images.groups, rows_of_kernel = turned ? features : channels;
  const int64_t columns_of_kernel = turned ? channels : features;
  const Tiling patches{images.samples, images.height, images.width, channels, groups, outputs.down, outputs.across};
  const Blocks blocks(channels, features);
  const int64_t most = BatchOfTiles(channels, blocks.size(0), tiles);
  const int64_t batches = std::min(tiles, RoundUp((tiles + most - 1) / most, threads.count()));
  const int64_t rows = RoundUp((tiles + batches - 1) / batches, kRunOfTiles);
  const int64_t parts = models * groups * blocks.count * batches;
  const Values taps(channels, blocks.size(0), blocks.panel), made(rows, blocks.size(0), blocks.panel);
  const Values seen(rows, Spaced(channels), Spaced(channels));
  const Runs runs({1, rows, channels, channels, 1, rows, 0, 0, seen.panel}, {1, rows, 1, 1, 0, 0, blocks.panel}, 1,
                  kRunOfTiles, 0);
  const Window window(channels, blocks.panel);
  threads.Share(parts, [&](auto next) {
    Scratch tap(taps.size()), patch(seen.size()), sum(made.size());
    for (int64_t part, packed = -1; (part = next()) < parts;) {
      const int64_t group = part / batches / blocks.count, block = part / batches % blocks.count;
      const int64_t feature = blocks.begin(block), count = blocks.size(block);
      const int64_t begin = part % batches * tiles / batches, end = (part % batches + 1) * tiles / batches;
      if (part / batches != packed) {
        packed = part / batches;
        EvaluateTaps<Arithmetic>(kernels + BeginOfKernel(group, groups, rows_of_kernel, columns_of_kernel),
                                 rows_of_kernel, columns_of_kernel, groups * columns_of_kernel, turned, feature,
                                 feature + count, taps, tap.data());
      }
      Evaluate<Arithmetic, kPatch>(patches, numbers + images.Begin(group), channels, begin, end, top, left,
                                   PatchValues{}, seen, patch.data());
      for (int64_t point = 0; point < kPoints; ++point) {
        for (int64_t column = 0; column < count; column += blocks.panel)
          ProductOfRuns<Float32, kRunOfTiles>(window, patch.data() + point * seen.apart,
                                       tap.data() + point * taps.apart + taps.At(0, column), runs,
                                       (end - begin + kRunOfTiles - 1) / kRunOfTiles,
                                       sum.data() + point * made.apart + made.At(0, column));
      }
      typename Arithmetic::Number* to = results + outputs.Begin(group) + feature;
      for (int64_t tile = begin; tile < end; ++tile) {
        for (int64_t f = 0; f < count; f += kLanes) {
          const float* first = sum.data() + made.At(tile - begin, f);
          Vector square[kTile][kTile];
          Both<kPatch, kTile>(
              Outputs{}, [&](int i, int j) { return Load(first + made.Point(i, j)); },
              [&](int i, int j, Vector value) { square[i][j] = value; });
          outputs.EachPixel<kTile>(tile, 0, 0, [&](int i, int j, int64_t pixel) {
            Arithmetic::Round(to + pixel * outputs.all_channels() + f, square[i][j], count - f);
          });
        }
      }
    }
  });
}

// Each thread computes some features or channels, adding up the tiles in the same order as one thread alone.
template <class Arithmetic>
void MinimalKernelGradient(Threads threads, int64_t models, const Tiling& images, const Tiling& outputs, int64_t top,
                           int64_t left, const typename Arithmetic::Number* numbers,
                           const typename Arithmetic::Number* cotangents, typename Arithmetic::Number* kernels) {
  const int64_t channels = images.channels, features = outputs.channels, tiles = outputs.tiles();
  const int64_t groups = images.groups;
  const Tiling patches{images.samples, images.height, images.width, channels, groups, outputs.down, outputs.across};
  const Blocks blocks(channels, features);
  const int64_t vectors = RoundUp(channels, kLanes) / kLanes, shared = models * groups * blocks.count;
  const int64_t slices = std::min(vectors, (threads.count() + shared - 1) / shared), parts = shared * slices;
  const int64_t most = (vectors + slices - 1) / slices * kLanes;
  const int64_t batch = std::min(tiles, kMomentPixels);
  const Values sums(most, blocks.size(0), blocks.panel), slopes(batch, blocks.size(0), blocks.panel);
  const Values seen(batch, Spaced(most), Spaced(most));
  const Runs runs({1, batch, most, most, 1, batch, 0, 0, seen.panel}, {1, batch, 1, 1}, 1, 1, 0);
  threads.Share(parts, [&](auto next) {
    Scratch patch(seen.size()), slope(slopes.size());
    for (int64_t part; (part = next()) < parts;) {
      const int64_t group = part / slices / blocks.count, block = part / slices % blocks.count;
      const int64_t feature = blocks.begin(block), count = blocks.size(block);
      const int64_t channel = part % slices * vectors / slices * kLanes;
      const int64_t width = std::min((part % slices + 1) * vectors / slices * kLanes, channels) - channel;
      const Window window(width, blocks.panel);
      Scratch sum(sums.size());
      for (int64_t begin = 0; begin < tiles; begin += batch) {
        const int64_t end = std::min(begin + batch, tiles);
        Evaluate<Arithmetic, kPatch>(patches, numbers + images.Begin(group) + channel, width, begin, end, top, left,
                                     PatchValues{}, seen, patch.data());
        Evaluate<Arithmetic, kTile>(outputs, cotangents + outputs.Begin(group) + feature, count, begin, end, 0, 0,
                                    CotangentValues{}, slopes, slope.data());
        for (int64_t point = 0; point < kPoints; ++point) {
          for (int64_t column = 0; column < count; column += blocks.panel)
            Moment<Float32>(window, patch.data() + point * seen.apart,
                            slope.data() + point * slopes.apart + slopes.At(0, column), runs, end - begin, 0, width,
                            sum.data() + point * sums.apart + sums.At(0, column));
        }
      }
      typename Arithmetic::Number* to = kernels + BeginOfKernel(group, groups, channels, features) + feature;
      for (int64_t c = 0; c < width; ++c) {
        for (int64_t f = 0; f < count; f += kLanes) {
          const float* first = sum.data() + sums.At(c, f);
          Both<kPatch, kTaps>(
              TapSums{}, [&](int i, int j) { return Load(first + sums.Point(i, j)); },
              [&](int i, int j, Vector value) {
                const int64_t row = (i * kTaps + j) * channels + channel + c;
                Arithmetic::Round(to + row * groups * features + f, value, count - f);
              });
        }
      }
    }
  });
}

// Whether minimal filtering of such outputs is faster by a fifth at least: its products, and the transforms, whose
// vectors take as long as so many products, measured with AVX2.
template <class Arithmetic>
bool Pays(const Tiling& outputs, int64_t inputs) {
  if (UsesTiles<Arithmetic>()) return false;
  constexpr int64_t kPatchCost = 550, kTapCost = 800;
  const int64_t features = RoundUp(outputs.channels, kLanes), tiles = outputs.tiles();
  const int64_t computed = features == kLanes ? kLanes : RoundUp(features, 2 * kLanes);
  const int64_t pixels = outputs.samples * outputs.height * outputs.width;
  const int64_t definition = pixels * kTaps * kTaps * inputs * features / Arithmetic::kNumbers;
  const int64_t transforms = tiles * kPatchCost * (RoundUp(inputs, kLanes) + features) + kTapCost * inputs * features;
  return (tiles * kPoints * inputs * computed + transforms) * 5 / 4 < definition;
}

}  // namespace jaxmia
