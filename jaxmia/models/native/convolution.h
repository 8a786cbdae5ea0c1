// The three linear parts of convolutions of many models, channels last, the model axis first in every array.
//
// The forward pass is a product of `windows.h`, the kernel gradient is a moment, and the input gradient is one product
// for each remainder of the input's position modulo the stride.

#pragma once

#include <algorithm>
#include <vector>

#include "products.h"
#include "tiled_gradient.h"
#include "tiled_product.h"
#include "winograd.h"

namespace jaxmia {

// Whether minimal filtering applies: three by three adjacent taps, stride one.
inline bool Filters(const Shape& shape) {
  return shape.tall == kTaps && shape.wide == kTaps && shape.down == 1 && shape.across == 1 && shape.gap_down == 1 &&
         shape.gap_across == 1;
}

inline Tiling Images(const Shape& shape) {
  return {shape.samples, shape.height, shape.width, shape.channels_of_group(), shape.groups};
}

inline Tiling Results(const Shape& shape) {
  return {shape.samples, shape.rows, shape.columns, shape.features_of_group(), shape.groups};
}

template <class Arithmetic>
void Forward(const Threads& threads, const Shape& shape, const typename Arithmetic::Number* inputs,
             const typename Arithmetic::Number* kernels, typename Arithmetic::Number* outputs) {
  const int64_t channels = shape.channels_of_group(), features = shape.features;
  if (Filters(shape) && Pays<Arithmetic>(Results(shape), channels))
    return MinimalProducts<Arithmetic>(threads.For(shape.products()), shape.models, Images(shape), Results(shape),
                                       -shape.top, -shape.left, false, inputs, kernels, outputs);
  const int64_t words = Words<Arithmetic>(channels);
  const Frame frame = InputFrame(shape, words);
  const Window window = AllTaps(shape, frame);
  const Pixels pixels{shape.rows,     shape.columns,            shape.down, shape.across,
                      shape.output(), shape.columns * features, features};
  const Taps taps{Multiples(shape.taps(), channels * features), channels, features, 1};
  Products<Arithmetic>(threads.For(shape.products()), shape, frame, window, taps, pixels, inputs, kernels, outputs);
}

// Each thread computes some words of the kernels, adding up the samples in the same order as one thread alone.
template <class Arithmetic>
void KernelGradient(const Threads& all, const Shape& shape, const typename Arithmetic::Number* inputs,
                    const typename Arithmetic::Number* cotangents, typename Arithmetic::Number* kernels) {
  const int64_t samples = shape.samples, channels = shape.channels_of_group(), features = shape.features_of_group();
  if (Filters(shape) && Pays<Arithmetic>(Results(shape), channels))
    return MinimalKernelGradient<Arithmetic>(all.For(shape.products()), shape.models, Images(shape), Results(shape),
                                             -shape.top, -shape.left, inputs, cotangents, kernels);
  constexpr int kNumbers = Arithmetic::kNumbers;
#if defined(JAXMIA_TILES)
  if constexpr (kNumbers == 2)
    if (HasTiles()) return TiledKernelGradient(all, shape, inputs, cotangents, kernels);
#endif
  const int64_t area = shape.rows * shape.columns;
  const Frame frame = InputFrame(shape, channels);
  const Window window = AllTaps(shape, frame);
  const int64_t filled = window.filled();
  const int64_t batch = BatchOf(shape.groups * frame.size(), area, Words<Arithmetic>(samples));
  const Runs pixels(frame, {shape.rows, shape.columns, shape.down, shape.across}, batch, 1, frame.size());
  // Each thread reads all samples, which would take most of its time if its sums did not fill the registers.
  const int64_t worth = shape.groups * window.size() / (kSums * kLanes) * kWorthAThread;
  Threads threads = all.For(std::min(shape.products(), worth));
  const int64_t slices = threads.count(), parts = shape.models * slices, words = shape.groups * window.words();
  // Adjacent pixels that are interleaved at once, where they are adjacent in words too.
  const int64_t row_run = channels == shape.channels ? shape.width : 1;
  const int64_t area_run = features == shape.features && features == filled ? area : 1;
  threads.Share(parts, [&](auto next) {
    std::vector<float> frames(batch * frame.size()), slopes(batch * area * filled);
    for (int64_t part; (part = next()) < parts;) {
      const int64_t model = part / slices, slice = part % slices;
      const int64_t begin = slice * words / slices, end = (slice + 1) * words / slices;
      std::vector<float> sum((end - begin) * filled);
      for (int64_t first = 0; first < samples; first += batch * kNumbers) {
        const int64_t here = std::min(batch, Words<Arithmetic>(samples - first));
        for (int64_t from = begin, to; from < end; from = to) {
          const int64_t group = from / window.words(), word = from % window.words();
          to = std::min(end, from - word + window.words());
          for (int64_t b = 0; b < here; ++b) {
            const int64_t sample = model * samples + first + b * kNumbers, left = samples - first - b * kNumbers;
            const auto* image = inputs + sample * shape.input() + group * channels;
            frame.EachRow([&](int64_t number, int64_t start, int64_t row) {
              const int64_t run = std::min(row, row_run);
              for (int64_t x = 0; x < row; x += run)
                Interleave<Arithmetic>(image + number + x * shape.channels, shape.input(), left, run * channels,
                                       frames.data() + b * frame.size() + start + x * channels);
            });
            const auto* slope = cotangents + sample * shape.output() + group * features;
            for (int64_t p = 0; p < area; p += area_run)
              Interleave<Arithmetic>(slope + p * shape.features, shape.output(), left, area_run * features,
                                     slopes.data() + (b * area + p) * filled);
          }
          Moment<Arithmetic>(window, frames.data(), slopes.data(), pixels, here * area, word, to - from + word,
                             sum.data() + (from - begin) * filled);
        }
      }
      for (int64_t word = begin; word < end; ++word) {
        const int64_t group = word / window.words(), row = word % window.words();
        typename Arithmetic::Number* out = kernels + model * shape.kernel() + row * shape.features + group * features;
        for (int64_t f = 0; f < features; f += kLanes)
          Arithmetic::Round(out + f, Load(sum.data() + (word - begin) * filled + f), features - f);
      }
    }
  });
}

template <class Arithmetic>
void InputGradient(const Threads& all, const Shape& shape, const typename Arithmetic::Number* cotangents,
                   const typename Arithmetic::Number* kernels, typename Arithmetic::Number* inputs) {
  const int64_t channels = shape.channels_of_group(), features = shape.features_of_group();
  if (Filters(shape) && Pays<Arithmetic>(Images(shape), features))
    return MinimalProducts<Arithmetic>(all.For(shape.products()), shape.models, Results(shape), Images(shape),
                                       shape.top - kTaps + 1, shape.left - kTaps + 1, true, cotangents, kernels,
                                       inputs);
  const int64_t words = Words<Arithmetic>(features);
  Threads threads = all.For(shape.products() / (shape.down * shape.across));
  if (shape.LeavesGaps()) {
    const int64_t parts = shape.models * shape.samples;
    threads.Share(parts, [&](auto next) {
      for (int64_t n; (n = next()) < parts;) std::fill_n(inputs + n * shape.input(), shape.input(), 0);
    });
  }
  for (int64_t y = 0; y < std::min(shape.down, shape.height); ++y) {
    for (int64_t x = 0; x < std::min(shape.across, shape.width); ++x) {
      const Reach vertical(y, shape.down, shape.top, shape.tall, shape.gap_down, shape.height);
      const Reach horizontal(x, shape.across, shape.left, shape.wide, shape.gap_across, shape.width);
      if (vertical.taps.empty() || horizontal.taps.empty()) continue;
      const Frame frame{shape.rows,
                        shape.columns,
                        shape.features,
                        features,
                        vertical.extent(),
                        horizontal.extent(),
                        -vertical.outputs.front(),
                        -horizontal.outputs.front(),
                        words};
      const Window window(frame, vertical.distances(), horizontal.distances(), channels);
      const Pixels pixels{vertical.places,
                          horizontal.places,
                          1,
                          1,
                          shape.input(),
                          shape.down * shape.width * shape.channels,
                          shape.across * shape.channels};
      Taps taps{{}, features, 1, shape.features};
      for (int64_t i : vertical.taps)
        for (int64_t j : horizontal.taps) taps.starts.push_back((i * shape.wide + j) * channels * shape.features);
      Products<Arithmetic>(threads, shape, frame, window, taps, pixels, cotangents, kernels,
                           inputs + (y * shape.width + x) * shape.channels);
    }
  }
}

}  // namespace jaxmia
