// The three linear parts of convolutions of many models, channels last, the model axis first in every array.
//
// The forward pass is a product of `windows.h`, the kernel gradient is a moment, and the input gradient is one product
// for each remainder of the input's position modulo the stride.

#pragma once

#include <algorithm>
#include <vector>

#include "threads.h"
#include "windows.h"
#include "winograd.h"

namespace jaxmia {

// Samples are processed in groups: small enough for their padded images to stay in a core's L2 cache, and large enough
// to have the pixels that amortise fetching the weights.
constexpr int64_t kGroupWords = 1 << 15, kGroupPixels = 256;

// Sizes of one convolution: inputs [models, samples, height, width, channels], kernels [models, tall, wide, channels,
// features], outputs [models, samples, rows, columns, features].
struct Shape {
  int64_t models, samples, height, width, channels, tall, wide, features, rows, columns, down, across, top, left;

  int64_t input() const { return height * width * channels; }
  int64_t kernel() const { return tall * wide * channels * features; }
  int64_t output() const { return rows * columns * features; }
  int64_t products() const { return models * samples * rows * columns * kernel(); }

  // Whether minimal filtering applies: three by three taps, stride one.
  bool Filters() const { return tall == kTaps && wide == kTaps && down == 1 && across == 1; }

  Tiling images() const { return {samples, height, width, channels}; }
  Tiling results() const { return {samples, rows, columns, features}; }
};

// Weights of one tap: words [channels, filled] of numbers at from[channel * down + feature * across], where channels or
// features are adjacent: one of the two steps is 1.
template <class Arithmetic>
void Pack(const typename Arithmetic::Number* from, int64_t channels, int64_t down, int64_t features, int64_t across,
          int64_t filled, float* words) {
  constexpr int kNumbers = Arithmetic::kNumbers;
  if (across == 1) {
    for (int64_t c = 0; c < channels; c += kNumbers, words += filled)
      Interleave<Arithmetic>(from + c * down, down, channels - c, features, words);
    return;
  }
  // A vector of features at a time, whose rows stay in the L1 cache. Whole words have a loop of their own: copies of
  // a size that the compiler does not know made the bfloat16 input gradient of a dense layer five times as slow.
  for (int64_t first = 0; first < features; first += kLanes) {
    const int64_t last = std::min(first + kLanes, features);
    for (int64_t c = 0; c < channels; c += kNumbers) {
      const int64_t bytes = std::min<int64_t>(kNumbers, channels - c) * sizeof(*from);
      float* to = words + c / kNumbers * filled;
      if (bytes == sizeof(float)) {
        for (int64_t f = first; f < last; ++f) std::memcpy(to + f, from + c + f * across, sizeof(float));
      } else {
        for (int64_t f = first; f < last; ++f) {
          typename Arithmetic::Number numbers[kNumbers] = {from[c + f * across]};
          std::memcpy(to + f, numbers, sizeof(float));
        }
      }
    }
  }
}

inline int64_t GroupOf(const Frame& frame, int64_t pixels, int64_t samples) {
  const int64_t group = std::max(kGroupWords / frame.size(), (kGroupPixels + pixels - 1) / pixels);
  return std::clamp<int64_t>(group, 1, samples);
}

// The product for all samples of all models: pack(model, weights) fills the weights of a model. A thread has frames and
// weights of its own, and takes group after group.
template <class Arithmetic, typename PackModel>
void Products(Threads threads, int64_t models, int64_t samples, const Frame& frame, const Window& window,
              const Pixels& pixels, const typename Arithmetic::Number* images, typename Arithmetic::Number* out,
              PackModel pack) {
  const int64_t image = frame.height * frame.width * frame.channels, length = RunLength(pixels.columns);
  const int64_t most = GroupOf(frame, pixels.rows * pixels.columns, samples);
  const int64_t groups = std::min(samples, RoundUp((samples + most - 1) / most, threads.count()));
  const int64_t group = (samples + groups - 1) / groups, parts = models * groups;
  const Runs runs(frame, pixels, group, length);
  threads.Share(parts, [&](auto next) {
    std::vector<float> frames(group * frame.size()), weights(window.size());
    for (int64_t part, packed = -1; (part = next()) < parts;) {
      const int64_t model = part / groups, first = part % groups * samples / groups;
      const int64_t here = (part % groups + 1) * samples / groups - first;
      if (model != packed) pack(packed = model, weights.data());
      for (int64_t n = 0; n < here; ++n)
        frame.Fill<Arithmetic>(images + (model * samples + first + n) * image, frames.data() + n * frame.size());
      Product<Arithmetic>(window, frames.data(), weights.data(), runs, length, here * runs.a_sample,
                          out + (model * samples + first) * pixels.sample_step);
    }
  });
}

template <class Arithmetic>
void Forward(const Threads& threads, const Shape& shape, const typename Arithmetic::Number* inputs,
             const typename Arithmetic::Number* kernels, typename Arithmetic::Number* outputs) {
  if (shape.Filters() && Pays<Arithmetic>(shape.results(), shape.channels))
    return MinimalProducts<Arithmetic>(threads.For(shape.products()), shape.models, shape.images(), shape.results(),
                                       -shape.top, -shape.left, false, inputs, kernels, outputs);
  const int64_t words = Words<Arithmetic>(shape.channels), features = shape.features;
  const Frame frame{shape.height, shape.width, shape.channels, (shape.rows - 1) * shape.down + shape.tall,
                    (shape.columns - 1) * shape.across + shape.wide, shape.top, shape.left, words};
  const Window window{shape.tall, shape.wide * words, frame.columns * words, features};
  const Pixels pixels{shape.rows,     shape.columns,            shape.down, shape.across,
                      shape.output(), shape.columns * features, features};
  Products<Arithmetic>(threads.For(shape.products()), shape.models, shape.samples, frame, window, pixels, inputs,
                       outputs, [&](int64_t model, float* weights) {
                         for (int64_t tap = 0; tap < shape.tall * shape.wide; ++tap)
                           Pack<Arithmetic>(kernels + model * shape.kernel() + tap * shape.channels * features,
                                            shape.channels, features, features, 1, window.filled(),
                                            weights + tap * words * window.filled());
                       });
}

// Each thread computes some words of the kernels, adding up the samples in the same order as one thread alone.
template <class Arithmetic>
void KernelGradient(const Threads& all, const Shape& shape, const typename Arithmetic::Number* inputs,
                    const typename Arithmetic::Number* cotangents, typename Arithmetic::Number* kernels) {
  if (shape.Filters() && Pays<Arithmetic>(shape.results(), shape.channels))
    return MinimalKernelGradient<Arithmetic>(all.For(shape.products()), shape.models, shape.images(), shape.results(),
                                             -shape.top, -shape.left, inputs, cotangents, kernels);
  constexpr int kNumbers = Arithmetic::kNumbers;
  const int64_t samples = shape.samples, channels = shape.channels, area = shape.rows * shape.columns;
  const Frame frame{shape.height, shape.width, channels, (shape.rows - 1) * shape.down + shape.tall,
                    (shape.columns - 1) * shape.across + shape.wide, shape.top, shape.left, channels};
  const Window window{shape.tall, shape.wide * channels, frame.columns * channels, shape.features};
  const int64_t filled = window.filled(), group = GroupOf(frame, area, Words<Arithmetic>(samples));
  const Runs pixels(frame, {shape.rows, shape.columns, shape.down, shape.across}, group, 1);
  // Each thread reads all samples, which would take most of its time if its sums did not fill the registers.
  Threads threads = all.For(std::min(shape.products(), window.size() / (kSums * kLanes) * kWorthAThread));
  const int64_t slices = threads.count(), parts = shape.models * slices, words = window.rows * window.run;
  threads.Share(parts, [&](auto next) {
    std::vector<float> frames(group * frame.size()), slopes(group * area * filled);
    for (int64_t part; (part = next()) < parts;) {
      const int64_t m = part / slices, slice = part % slices;
      const int64_t begin = slice * words / slices, end = (slice + 1) * words / slices;
      std::vector<float> sum((end - begin) * filled);
      for (int64_t first = 0; first < samples; first += group * kNumbers) {
        const int64_t here = std::min(group, Words<Arithmetic>(samples - first));
        for (int64_t g = 0; g < here; ++g) {
          const int64_t sample = m * samples + first + g * kNumbers, left = samples - first - g * kNumbers;
          frame.EachRow([&](int64_t from, int64_t to, int64_t row) {
            Interleave<Arithmetic>(inputs + sample * shape.input() + from, shape.input(), left, row * channels,
                                   frames.data() + g * frame.size() + to);
          });
          const int64_t chunk = filled == shape.features ? area * filled : shape.features;
          for (int64_t from = 0, to = g * area * filled; from < shape.output();
               from += chunk, to += RoundUp(chunk, kLanes))
            Interleave<Arithmetic>(cotangents + sample * shape.output() + from, shape.output(), left, chunk,
                                   slopes.data() + to);
        }
        Moment<Arithmetic>(window, frames.data(), slopes.data(), pixels, here * area, begin, end, sum.data());
      }
      typename Arithmetic::Number* out = kernels + m * shape.kernel() + begin * shape.features;
      for (int64_t word = 0; word < end - begin; ++word)
        for (int64_t f = 0; f < shape.features; f += kLanes)
          Arithmetic::Round(out + word * shape.features + f, Load(sum.data() + word * filled + f), shape.features - f);
    }
  });
}

// Along one axis, for the input positions whose remainder modulo the stride is `rest`: the taps that reach them, last
// first, so that the outputs they read are adjacent in ascending order, and the first of these for position `rest`.
struct Taps {
  std::vector<int64_t> taps;
  int64_t first = 0;
  int64_t places = 0;

  Taps(int64_t rest, int64_t stride, int64_t padding, int64_t size, int64_t length) {
    places = rest < length ? (length - rest + stride - 1) / stride : 0;
    for (int64_t tap = size - 1; tap >= 0; --tap) {
      if ((rest + padding - tap) % stride == 0) taps.push_back(tap);
    }
    if (!taps.empty()) first = (rest + padding - taps.front()) / stride;
  }
};

template <class Arithmetic>
void InputGradient(const Threads& all, const Shape& shape, const typename Arithmetic::Number* cotangents,
                   const typename Arithmetic::Number* kernels, typename Arithmetic::Number* inputs) {
  if (shape.Filters() && Pays<Arithmetic>(shape.images(), shape.features))
    return MinimalProducts<Arithmetic>(all.For(shape.products()), shape.models, shape.results(), shape.images(),
                                       shape.top - kTaps + 1, shape.left - kTaps + 1, true, cotangents, kernels,
                                       inputs);
  const int64_t channels = shape.channels, features = shape.features, words = Words<Arithmetic>(features);
  Threads threads = all.For(shape.products() / (shape.down * shape.across));
  if (shape.tall < shape.down || shape.wide < shape.across) {  // some positions are reached by no tap
    const int64_t parts = shape.models * shape.samples;
    threads.Share(parts, [&](auto next) {
      for (int64_t n; (n = next()) < parts;) std::fill_n(inputs + n * shape.input(), shape.input(), 0);
    });
  }
  for (int64_t y = 0; y < shape.down; ++y) {
    for (int64_t x = 0; x < shape.across; ++x) {
      const Taps vertical(y, shape.down, shape.top, shape.tall, shape.height);
      const Taps horizontal(x, shape.across, shape.left, shape.wide, shape.width);
      const int64_t tall = vertical.taps.size(), wide = horizontal.taps.size();
      if (tall * wide * vertical.places * horizontal.places == 0) continue;
      const Frame frame{shape.rows, shape.columns, features, vertical.places - 1 + tall, horizontal.places - 1 + wide,
                        -vertical.first, -horizontal.first, words};
      const Window window{tall, wide * words, frame.columns * words, channels};
      const Pixels pixels{vertical.places, horizontal.places,                   1, 1,
                          shape.input(),   shape.down * shape.width * channels, shape.across * channels};
      Products<Arithmetic>(threads, shape.models, shape.samples, frame, window, pixels, cotangents,
                           inputs + (y * shape.width + x) * channels, [&](int64_t model, float* weights) {
                             for (int64_t i : vertical.taps) {
                               for (int64_t j : horizontal.taps) {
                                 const int64_t tap = model * shape.tall * shape.wide + i * shape.wide + j;
                                 Pack<Arithmetic>(kernels + tap * channels * features, features, 1, channels, features,
                                                  window.filled(), weights);
                                 weights += words * window.filled();
                               }
                             }
                           });
    }
  }
}

}  // namespace jaxmia
