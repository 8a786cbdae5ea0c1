// The three linear parts of convolutions of many models in which each channel has a kernel of its own, channels last,
// the model axis first in every array.
//
// Vectors hold adjacent numbers of a row, of several pixels where these have few channels. Each output is a sum over
// taps at fixed distances in a padded image, whose columns are sorted by their remainder modulo the stride for this.

#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "threads.h"
#include "vectors.h"

namespace jaxmia {

// Vectors of outputs that are computed at once, and taps whose gradients are.
constexpr int kOutputs = 8, kSlopes = 9;

// Numbers that a thread takes at a time, and the most shares of a model's samples that are summed apart.
constexpr int64_t kDepthwiseNumbers = 1 << 14, kDepthwiseShares = 16;

// Sizes of one convolution: inputs [models, samples, height, width, channels], kernels [models, tall, wide, channels],
// outputs [models, samples, rows, columns, channels]; taps are `gap_down` rows and `gap_across` columns apart.
struct DepthwiseShape {
  int64_t models, samples, height, width, channels, tall, wide, rows, columns, down, across, top, left, gap_down,
      gap_across;

  int64_t input() const { return height * width * channels; }
  int64_t kernel() const { return tall * wide * channels; }
  int64_t output() const { return rows * columns * channels; }
  int64_t products() const { return models * samples * rows * columns * kernel(); }
};

// Smallest integer of at least value / unit.
inline int64_t Ceiling(int64_t value, int64_t unit) { return value > 0 ? (value + unit - 1) / unit : value / unit; }

// Division of rows of pixels into periods: whole vectors, whose lanes have the same channels in every period.
struct Period {
  int64_t channels, filled, pixels;  // `filled` numbers from pixel to pixel

  // Pixels that are adjacent, or that have vectors of their own if those are fewer or if outputs are `apart`.
  Period(int64_t channels, int64_t columns, bool apart)
      : channels(channels), filled(channels), pixels(std::lcm<int64_t>(channels, kLanes) / channels) {
    const int64_t padded = RoundUp(channels, kLanes);
    if (apart || RoundUp(columns, pixels) * channels > columns * padded) filled = padded, pixels = 1;
  }

  int64_t size() const { return pixels * filled; }
};

// An image in float32 with zeros around it; `columns` are those of each remainder modulo `across`.
struct Grid {
  int64_t height, width, top, left, rows, columns, across;
  Period period;

  int64_t row() const { return Spaced(across * columns * period.filled); }
  int64_t size() const { return rows * row() + period.size(); }  // a period may begin with the last pixel
  int64_t At(int64_t y, int64_t x) const {
    return y * row() + (x % across * columns + x / across) * period.filled;
  }

  // Writes all but the zeros.
  template <class Arithmetic>
  void Fill(const typename Arithmetic::Number* image, float* numbers) const {
    const int64_t channels = period.channels, first = std::max<int64_t>(0, -left);
    const int64_t last = std::min(width, across * columns - left);
    const bool adjacent = across == 1 && period.filled == channels;
    const int64_t run = adjacent ? last - first : 1;
    for (int64_t y = std::max<int64_t>(0, -top); y < std::min(height, rows - top); ++y) {
      for (int64_t x = first; x < last; x += run) {
        const typename Arithmetic::Number* from = image + (y * width + x) * channels;
        float* to = numbers + At(y + top, x + left);
        for (int64_t i = 0, count = run * channels; i < count; i += kLanes)
          Float32::Round(to + i, Arithmetic::Widen(from + i, count - i), count - i);
      }
    }
  }
};

// Periods of outputs that are sums over the same taps: where each begins in a grid and among the outputs, how many of
// its numbers are outputs, and where the taps of an output are, from where it begins.
struct Pass {
  std::vector<int64_t> starts, outputs, counts, taps, offsets;

  Pass(const Grid& grid, int64_t rows, int64_t columns, int64_t down, int64_t first, int64_t row_step,
       int64_t pixel_step) {
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < columns; x += grid.period.pixels) {
        starts.push_back(y * down * grid.row() + x * grid.period.filled);
        outputs.push_back(first + y * row_step + x * pixel_step);
        counts.push_back(std::min(grid.period.pixels, columns - x) * grid.period.channels);
      }
    }
  }

  void AddTap(int64_t tap, int64_t offset) {
    taps.push_back(tap);
    offsets.push_back(offset);
  }

  int64_t size() const { return starts.size(); }
};

// Weights of a pass as vectors [vector of a period, tap].
template <class Arithmetic>
void PackTaps(const Period& period, const Pass& pass, const typename Arithmetic::Number* kernel, float* weights) {
  const int64_t taps = pass.taps.size(), channels = period.channels;
  std::vector<float> row(period.filled + kLanes);
  for (int64_t t = 0; t < taps; ++t) {
    for (int64_t c = 0; c < channels; c += kLanes)
      Store(&row[c], Arithmetic::Widen(kernel + pass.taps[t] * channels + c, channels - c));
    for (int64_t i = 0; i < period.size(); ++i)
      weights[(i / kLanes * taps + t) * kLanes + i % kLanes] = row[i % period.filled];
  }
}

template <class Arithmetic>
void Correlate(const Period& period, const Pass& pass, const float* grid, const float* weights,
               typename Arithmetic::Number* outputs) {
  const int64_t taps = pass.taps.size(), last = pass.size() - 1;
  for (int64_t v = 0; v < period.size(); v += kLanes, weights += taps * kLanes) {
    for (int64_t first = 0; first <= last; first += kOutputs) {
      const float* from[kOutputs];
      for (int k = 0; k < kOutputs; ++k) from[k] = grid + pass.starts[std::min(first + k, last)] + v;
      Vector sums[kOutputs] = {};
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t offset = pass.offsets[t];
        const Vector weight = Load(weights + t * kLanes);
#pragma GCC unroll 8
        for (int k = 0; k < kOutputs; ++k) Float32::Add(sums[k], Load(from[k] + offset), weight);
      }
#pragma GCC unroll 8
      for (int k = 0; k < kOutputs; ++k) {
        const int64_t at = std::min(first + k, last), count = pass.counts[at] - v;
        if (count > 0) Arithmetic::Round(outputs + pass.outputs[at] + v, sums[k], count);
      }
    }
  }
}

// Outputs of all samples of all models by the passes, which have each tap at most once.
template <class Arithmetic>
void Correlations(Threads threads, const DepthwiseShape& shape, const Grid& grid, const std::vector<Pass>& passes,
                  const typename Arithmetic::Number* images, int64_t image,
                  const typename Arithmetic::Number* kernels, typename Arithmetic::Number* outputs, int64_t output) {
  const int64_t samples = shape.samples;
  const int64_t group = std::clamp<int64_t>(kDepthwiseNumbers / (image + output), 1, samples);
  const int64_t groups = Ceiling(samples, group), parts = shape.models * groups;
  const Period& period = grid.period;
  threads.Share(parts, [&](auto next) {
    Scratch numbers(grid.size()), weights(shape.tall * shape.wide * period.size());
    const auto each_pass = [&](auto work) {
      float* own = weights.data();
      for (const Pass& pass : passes) {
        work(pass, own);
        own += pass.taps.size() * period.size();
      }
    };
    for (int64_t part, packed = -1; (part = next()) < parts;) {
      const int64_t model = part / groups, first = part % groups * group, last = std::min(samples, first + group);
      if (model != packed) {
        packed = model;
        each_pass([&](const Pass& pass, float* own) {
          PackTaps<Arithmetic>(period, pass, kernels + model * shape.kernel(), own);
        });
      }
      for (int64_t n = model * samples + first; n < model * samples + last; ++n) {
        grid.Fill<Arithmetic>(images + n * image, numbers.data());
        each_pass([&](const Pass& pass, const float* own) {
          Correlate<Arithmetic>(period, pass, numbers.data(), own, outputs + n * output);
        });
      }
    }
  });
}

inline Grid InputGrid(const DepthwiseShape& shape) {
  return {shape.height,
          shape.width,
          shape.top,
          shape.left,
          (shape.rows - 1) * shape.down + (shape.tall - 1) * shape.gap_down + 1,
          shape.columns + (shape.wide - 1) * shape.gap_across / shape.across,
          shape.across,
          Period(shape.channels, shape.columns, false)};
}

inline Pass InputPass(const DepthwiseShape& shape, const Grid& grid, int64_t row_step, int64_t pixel_step) {
  Pass pass(grid, shape.rows, shape.columns, shape.down, 0, row_step, pixel_step);
  for (int64_t i = 0; i < shape.tall; ++i)
    for (int64_t j = 0; j < shape.wide; ++j)
      pass.AddTap(i * shape.wide + j, grid.At(i * shape.gap_down, j * shape.gap_across));
  return pass;
}

template <class Arithmetic>
void DepthwiseForward(const Threads& threads, const DepthwiseShape& shape, const typename Arithmetic::Number* inputs,
                      const typename Arithmetic::Number* kernels, typename Arithmetic::Number* outputs) {
  const Grid grid = InputGrid(shape);
  const Pass pass = InputPass(shape, grid, shape.columns * shape.channels, shape.channels);
  Correlations<Arithmetic>(threads.For(shape.products()), shape, grid, {pass}, inputs, shape.input(), kernels, outputs,
                           shape.output());
}

// Along one axis, the taps that reach the input positions first, first + stride, ..., with the output that each meets at
// the first of them.
struct Reach {
  int64_t places;
  std::vector<int64_t> taps, outputs;

  Reach(int64_t first, int64_t stride, int64_t padding, int64_t size, int64_t gap, int64_t length)
      : places(Ceiling(length - first, stride)) {
    for (int64_t tap = 0; tap < size; ++tap) {
      if ((first + padding - tap * gap) % stride != 0) continue;
      taps.push_back(tap);
      outputs.push_back((first + padding - tap * gap) / stride);
    }
  }
};

template <class Arithmetic>
void DepthwiseInputGradient(const Threads& threads, const DepthwiseShape& shape,
                            const typename Arithmetic::Number* cotangents, const typename Arithmetic::Number* kernels,
                            typename Arithmetic::Number* inputs) {
  const int64_t channels = shape.channels, down = shape.down, across = shape.across;
  const int64_t above = Ceiling((shape.tall - 1) * shape.gap_down - shape.top, down);
  const int64_t before = Ceiling((shape.wide - 1) * shape.gap_across - shape.left, across);
  const Grid grid{shape.rows,
                  shape.columns,
                  above,
                  before,
                  above + 1 - Ceiling(1 - shape.top - shape.height, down),
                  before + 1 - Ceiling(1 - shape.left - shape.width, across),
                  1,
                  Period(channels, shape.width, across > 1)};
  std::vector<Pass> passes;
  for (int64_t y = 0; y < std::min(down, shape.height); ++y) {
    for (int64_t x = 0; x < std::min(across, shape.width); ++x) {
      const Reach vertical(y, down, shape.top, shape.tall, shape.gap_down, shape.height);
      const Reach horizontal(x, across, shape.left, shape.wide, shape.gap_across, shape.width);
      Pass pass(grid, vertical.places, horizontal.places, 1, (y * shape.width + x) * channels,
                down * shape.width * channels, across * channels);
      for (size_t i = 0; i < vertical.taps.size(); ++i)
        for (size_t j = 0; j < horizontal.taps.size(); ++j)
          pass.AddTap(vertical.taps[i] * shape.wide + horizontal.taps[j],
                      grid.At(vertical.outputs[i] + above, horizontal.outputs[j] + before));
      passes.push_back(pass);
    }
  }
  Correlations<Arithmetic>(threads.For(shape.products()), shape, grid, passes, cotangents, shape.output(), kernels,
                           inputs, shape.input());
}

// Adds products with the slopes, summed over a pass, for `kCount` taps and one vector of a period, of numbers and slopes
// that both begin with it.
template <int kCount>
void AddSlopes(const Pass& pass, int64_t tap, const float* numbers, const float* slopes, float* sums) {
  const float* from[kCount];
  for (int t = 0; t < kCount; ++t) from[t] = numbers + pass.offsets[tap + t];
  Vector sum[kCount] = {};
  for (int64_t at = 0; at < pass.size(); ++at) {
    const int64_t start = pass.starts[at];
    const Vector slope = Load(slopes + pass.outputs[at]);
#pragma GCC unroll 9
    for (int t = 0; t < kCount; ++t) Float32::Add(sum[t], Load(from[t] + start), slope);
  }
  for (int t = 0; t < kCount; ++t) Store(sums + t * kLanes, Load(sums + t * kLanes) + sum[t]);
}

// The same for up to kCount taps.
template <int kCount = kSlopes>
void AddSlopesOf(int64_t count, const Pass& pass, int64_t tap, const float* numbers, const float* slopes,
                 float* sums) {
  if constexpr (kCount > 1) {
    if (count < kCount) return AddSlopesOf<kCount - 1>(count, pass, tap, numbers, slopes, sums);
  }
  AddSlopes<kCount>(pass, tap, numbers, slopes, sums);
}

// Shares of the samples are summed apart, whatever the number of threads, and then added in their order.
template <class Arithmetic>
void DepthwiseKernelGradient(const Threads& all, const DepthwiseShape& shape,
                             const typename Arithmetic::Number* inputs, const typename Arithmetic::Number* cotangents,
                             typename Arithmetic::Number* kernels) {
  const int64_t samples = shape.samples, taps = shape.tall * shape.wide;
  const Grid grid = InputGrid(shape);
  const Period& period = grid.period;
  const Grid slopes{shape.rows, shape.columns, 0, 0, shape.rows, RoundUp(shape.columns, period.pixels), 1, period};
  const Pass pass = InputPass(shape, grid, slopes.row(), period.filled);
  const int64_t shares = std::min(samples, kDepthwiseShares), parts = shape.models * shares;
  const int64_t size = taps * period.size(), at_once = Ceiling(taps, Ceiling(taps, kSlopes));
  std::vector<float> sums(parts * size);  // vectors [model, share, vector of a period, tap]
  Threads threads = all.For(shape.products());
  threads.Share(parts, [&](auto next) {
    Scratch image(grid.size()), slope(slopes.size());
    for (int64_t part; (part = next()) < parts;) {
      const int64_t model = part / shares, share = part % shares;
      for (int64_t n = share * samples / shares; n < (share + 1) * samples / shares; ++n) {
        grid.Fill<Arithmetic>(inputs + (model * samples + n) * shape.input(), image.data());
        slopes.Fill<Arithmetic>(cotangents + (model * samples + n) * shape.output(), slope.data());
        float* sum = sums.data() + part * size;
        for (int64_t v = 0; v < period.size(); v += kLanes) {
          for (int64_t tap = 0, count; tap < taps; tap += count, sum += count * kLanes) {
            count = std::min(at_once, taps - tap);
            AddSlopesOf(count, pass, tap, image.data() + v, slope.data() + v, sum);
          }
        }
      }
    }
  });
  threads.Share(shape.models, [&](auto next) {
    std::vector<float> row(RoundUp(period.filled, kLanes));
    for (int64_t model; (model = next()) < shape.models;) {
      float* total = sums.data() + model * shares * size;
      for (int64_t share = 1; share < shares; ++share)
        for (int64_t i = 0; i < size; ++i) total[i] += total[share * size + i];
      for (int64_t tap = 0; tap < taps; ++tap) {
        std::fill(row.begin(), row.end(), 0.f);
        for (int64_t i = 0; i < period.size(); ++i)
          row[i % period.filled] += total[(i / kLanes * taps + tap) * kLanes + i % kLanes];
        typename Arithmetic::Number* to = kernels + model * shape.kernel() + tap * shape.channels;
        for (int64_t c = 0; c < shape.channels; c += kLanes) Arithmetic::Round(to + c, Load(&row[c]), shape.channels - c);
      }
    }
  });
}

}  // namespace jaxmia
