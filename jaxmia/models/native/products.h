// Products of the windows of padded images with the weights of a kernel, for many models.

#pragma once

#include <algorithm>
#include <vector>

#include "shape.h"
#include "threads.h"
#include "windows.h"

namespace jaxmia {

// Samples are processed in batches: small enough for their padded images to stay in a core's L2 cache, and large enough
// to have the pixels that amortise fetching the weights.
constexpr int64_t kBatchWords = 1 << 15, kBatchPixels = 256;

// Number of samples in a batch, whose padded images have so many words and results so many pixels.
inline int64_t BatchOf(int64_t words, int64_t pixels, int64_t samples) {
  const int64_t batch = std::max(kBatchWords / words, (kBatchPixels + pixels - 1) / pixels);
  return std::clamp<int64_t>(batch, 1, samples);
}

// Frame of a group of the inputs, whose pixels have so many words.
inline Frame InputFrame(const Shape& shape, int64_t words) {
  return {shape.height,
          shape.width,
          shape.channels,
          shape.channels_of_group(),
          (shape.rows - 1) * shape.down + (shape.tall - 1) * shape.gap_down + 1,
          (shape.columns - 1) * shape.across + (shape.wide - 1) * shape.gap_across + 1,
          shape.top,
          shape.left,
          words};
}

// All taps, in the frame of an input.
inline Window AllTaps(const Shape& shape, const Frame& frame) {
  return {frame, Multiples(shape.tall, shape.gap_down), Multiples(shape.wide, shape.gap_across),
          shape.features_of_group()};
}

// Where the kernel of a group has the weights of the taps of a window: numbers to each tap, and from one of its channels
// and features to the next, one of which is 1.
struct Taps {
  std::vector<int64_t> starts;
  int64_t channels, down, across;
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

// Products of the windows of up to `batch` samples, whose frames are `apart` words apart, with the weights of a group, of
// `size` words.
template <class Arithmetic>
class VectorProduct {
 public:
  using Number = typename Arithmetic::Number;

  VectorProduct(const Frame& frame, const Window& window, const Pixels& pixels, int64_t batch)
      : batch(batch),
        apart(frame.size()),
        size(window.size()),
        window_(window),
        length_(RunLength(pixels.columns)),
        runs_(frame, pixels, batch, length_, apart),
        in_sample_(Runs::InSample(pixels, length_)) {}

  const int64_t batch, apart, size;

  static int64_t BatchOf(int64_t words, const Pixels& pixels, int64_t samples) {
    return jaxmia::BatchOf(words, pixels.rows * pixels.columns, samples);
  }

  void Fill(const Taps& taps, const Number* kernel, float* weights) const {
    for (const int64_t start : taps.starts) {
      Pack<Arithmetic>(kernel + start, taps.channels, taps.down, window_.features, taps.across, window_.filled(), weights);
      weights += Words<Arithmetic>(taps.channels) * window_.filled();
    }
  }

  void Multiply(const float* frames, const float* weights, int64_t samples, Number* out) const {
    Product<Arithmetic>(window_, frames, weights, runs_, length_, samples * in_sample_, out);
  }

 private:
  const Window window_;
  const int64_t length_;
  const Runs runs_;
  const int64_t in_sample_;
};

// The products for all samples of all groups of all models. A thread has frames and weights of its own, and takes batch
// after batch.
template <class Arithmetic, class Method>
void ProductsBy(Threads threads, const Shape& shape, const Frame& frame, const Window& window, const Taps& taps,
                const Pixels& pixels, const typename Arithmetic::Number* images,
                const typename Arithmetic::Number* kernels, typename Arithmetic::Number* out) {
  const int64_t samples = shape.samples, groups = shape.groups;
  const int64_t image = frame.height * frame.width * frame.all_channels;
  const int64_t most = Method::BatchOf(groups * frame.size(), pixels, samples);
  const int64_t batches = std::min(samples, RoundUp((samples + most - 1) / most, threads.count()));
  const Method method(frame, window, pixels, (samples + batches - 1) / batches);
  const int64_t parts = shape.models * batches;
  threads.Share(parts, [&](auto next) {
    Scratch frames(method.batch * method.apart), weights(groups * method.size);
    for (int64_t part, packed = -1; (part = next()) < parts;) {
      const int64_t model = part / batches, first = part % batches * samples / batches;
      const int64_t here = (part % batches + 1) * samples / batches - first;
      for (int64_t group = 0; group < groups; ++group) {
        float* filled = weights.data() + group * method.size;
        if (model != packed)
          method.Fill(taps, kernels + model * shape.kernel() + group * shape.features_of_group(), filled);
        const auto* from = images + (model * samples + first) * image + group * frame.channels;
        for (int64_t n = 0; n < here; ++n)
          frame.Fill<Arithmetic>(from + n * image, frames.data() + n * method.apart);
        method.Multiply(frames.data(), filled, here,
                        out + (model * samples + first) * pixels.sample_step + group * window.features);
      }
      packed = model;
    }
  });
}

}  // namespace jaxmia
