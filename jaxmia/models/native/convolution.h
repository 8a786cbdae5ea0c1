// The three linear parts of convolutions of many models, channels last, the model axis first in every array.
//
// For each output pixel, a convolution reads `rows` runs of `run` contiguous words from a padded image, since a row of
// the kernel covers adjacent columns and channels come last. All three parts are therefore one of
//   product:  out[pixel, f]    = sum over r, q of image[start[pixel] + r * pitch + q] * weights[r, q, f]
//   moment:   weights[r, q, f] = sum over pixels of image[start[pixel] + r * pitch + q] * cotangent[pixel, f]
// where a word of bfloat16 holds two numbers that are summed over: two channels in a product, two samples in a moment.
// The input gradient of a strided convolution is one product for each remainder of the input's position modulo the
// stride.

#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace jaxmia {

// Samples are processed in groups: small enough for their padded images to stay in a core's L2 cache, and large enough
// to have the pixels that amortise fetching the weights.
constexpr int64_t kGroupWords = 1 << 15, kGroupPixels = 256;

// Pixels of a moment whose words stay in the L1 cache.
constexpr int64_t kMomentPixels = 128;

// Sizes of one convolution: inputs [models, samples, height, width, channels], kernels [models, tall, wide, channels,
// features], outputs [models, samples, rows, columns, features].
struct Shape {
  int64_t models, samples, height, width, channels, tall, wide, features, rows, columns, down, across, top, left;

  int64_t input() const { return height * width * channels; }
  int64_t kernel() const { return tall * wide * channels * features; }
  int64_t output() const { return rows * columns * features; }
};

// Images [height, width, channels] placed at (top, left) in frames [rows, columns, words] whose rest stays zero; what
// exceeds the frame is clipped.
struct Frame {
  int64_t height, width, channels, rows, columns, top, left, words;

  int64_t size() const { return rows * columns * words; }

  // Calls work(first number in the image, first word in the frame, pixels) for each visible part of a row.
  template <typename Work>
  void EachRow(Work work) const {
    const int64_t first = std::max<int64_t>(0, -left), last = std::min(width, columns - left);
    if (last <= first) return;
    for (int64_t y = std::max<int64_t>(0, -top); y < std::min(height, rows - top); ++y)
      work((y * width + first) * channels, ((y + top) * columns + first + left) * words, last - first);
  }

  // Fills a frame whose words hold adjacent channels.
  template <class Arithmetic>
  void Fill(const typename Arithmetic::Number* image, float* frame) const {
    EachRow([&](int64_t from, int64_t to, int64_t pixels) {
      if (channels % Arithmetic::kNumbers == 0) {
        std::memcpy(frame + to, image + from, pixels * channels * sizeof(*image));
      } else {
        for (int64_t x = 0; x < pixels; ++x)
          std::memcpy(frame + to + x * words, image + from + x * channels, channels * sizeof(*image));
      }
    });
  }
};

// Sizes of a window and its weights [rows, run, features], with features padded to whole vectors.
struct Window {
  int64_t rows, run, pitch, features;

  int64_t filled() const { return RoundUp(features, kLanes); }
  int64_t size() const { return rows * run * filled(); }
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

// Runs of `kRun` output pixels of a row, for a group of samples: offset of their first pixels in the frames and in the
// output, and from pixel to pixel. The last run of a row overlaps the one before where the row is no multiple.
struct Runs {
  std::vector<int64_t> start, place;
  int64_t a_sample, start_step, place_step;

  Runs(const Frame& frame, int64_t samples, int64_t height, int64_t width, int64_t down, int64_t across, int64_t length,
       int64_t out_sample, int64_t out_row, int64_t out_pixel)
      : a_sample(height * ((width + length - 1) / length)), start_step(across * frame.words), place_step(out_pixel) {
    for (int64_t n = 0; n < samples; ++n) {
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; x += length) {
          const int64_t first = std::min(x, width - length);
          start.push_back(n * frame.size() + y * down * frame.columns * frame.words + first * start_step);
          place.push_back(n * out_sample + y * out_row + first * out_pixel);
        }
      }
    }
  }
};

template <class Arithmetic, int kGroup, int kRun, int kVectors>
void ProductTile(const Window& window, const float* frames, const float* weights, const Runs& runs, int64_t first,
                 int64_t feature, typename Arithmetic::Number* out) {
  const int64_t filled = window.filled(), step = runs.start_step;
  const float* from[kGroup];
#pragma GCC unroll 24
  for (int g = 0; g < kGroup; ++g) from[g] = frames + runs.start[first + g];
  Vector sum[kGroup][kRun][kVectors] = {};
  const float* weight = weights + feature;
  for (int64_t r = 0; r < window.rows; ++r) {
    for (int64_t q = 0; q < window.run; ++q, weight += filled) {
      Vector factor[kVectors];
#pragma GCC unroll 24
      for (int v = 0; v < kVectors; ++v) factor[v] = Load(weight + v * kLanes);
#pragma GCC unroll 24
      for (int g = 0; g < kGroup; ++g) {
#pragma GCC unroll 24
        for (int p = 0; p < kRun; ++p) {
          const Vector value = Broadcast(from[g] + q + p * step);
#pragma GCC unroll 24
          for (int v = 0; v < kVectors; ++v) Arithmetic::Add(sum[g][p][v], factor[v], value);
        }
      }
    }
#pragma GCC unroll 24
    for (int g = 0; g < kGroup; ++g) from[g] += window.pitch;
  }
#pragma GCC unroll 24
  for (int g = 0; g < kGroup; ++g) {
    typename Arithmetic::Number* to = out + runs.place[first + g] + feature;
#pragma GCC unroll 24
    for (int p = 0; p < kRun; ++p) {
#pragma GCC unroll 24
      for (int v = 0; v < kVectors; ++v)
        Arithmetic::Round(to + p * runs.place_step + v * kLanes, sum[g][p][v], window.features - feature - v * kLanes);
    }
  }
}

// Tiles of `kGroup` runs from `first` to `count`, then of fewer.
template <class Arithmetic, int kGroup, int kRun, int kVectors>
void ProductTiles(const Window& window, const float* frames, const float* weights, const Runs& runs, int64_t first,
                  int64_t count, int64_t feature, typename Arithmetic::Number* out) {
  for (; first + kGroup <= count; first += kGroup)
    ProductTile<Arithmetic, kGroup, kRun, kVectors>(window, frames, weights, runs, first, feature, out);
  if constexpr (kGroup > 1) {
    ProductTiles<Arithmetic, kGroup / 2, kRun, kVectors>(window, frames, weights, runs, first, count, feature, out);
  }
}

template <class Arithmetic, int kRun>
void ProductOfRuns(const Window& window, const float* frames, const float* weights, const Runs& runs, int64_t count,
                   typename Arithmetic::Number* out) {
  constexpr int kGroup = std::min(6, kSums / kRun);
  int64_t feature = 0;
  for (; feature + 2 * kLanes <= window.filled(); feature += 2 * kLanes)
    ProductTiles<Arithmetic, kGroup / 2, kRun, 2>(window, frames, weights, runs, 0, count, feature, out);
  if (feature < window.filled())
    ProductTiles<Arithmetic, kGroup, kRun, 1>(window, frames, weights, runs, 0, count, feature, out);
}

// Length of the runs into which rows of this width are cut.
inline int64_t RunLength(int64_t width) { return width >= 4 ? 4 : width >= 2 ? 2 : 1; }

template <class Arithmetic>
void Product(const Window& window, const float* frames, const float* weights, const Runs& runs, int64_t length,
             int64_t count, typename Arithmetic::Number* out) {
  const auto product = length == 4   ? ProductOfRuns<Arithmetic, 4>
                       : length == 2 ? ProductOfRuns<Arithmetic, 2>
                                     : ProductOfRuns<Arithmetic, 1>;
  product(window, frames, weights, runs, count, out);
}

template <class Arithmetic, int kNumbers, int kVectors>
void MomentTile(const Window& window, const float* frames, const float* cotangent, const int64_t* start, int64_t count,
                int64_t r, int64_t q, int64_t feature, float* weights) {
  const int64_t filled = window.filled();
  Vector sum[kNumbers][kVectors] = {};
  const float* from = frames + r * window.pitch + q;
  cotangent += feature;
  for (int64_t p = 0; p < count; ++p, cotangent += filled) {
    const float* numbers = from + start[p];
    Vector factor[kVectors];
#pragma GCC unroll 24
    for (int v = 0; v < kVectors; ++v) factor[v] = Load(cotangent + v * kLanes);
#pragma GCC unroll 24
    for (int n = 0; n < kNumbers; ++n) {
      const Vector value = Broadcast(numbers + n);
#pragma GCC unroll 24
      for (int v = 0; v < kVectors; ++v) Arithmetic::Add(sum[n][v], factor[v], value);
    }
  }
  for (int n = 0; n < kNumbers; ++n) {
    float* to = weights + (r * window.run + q + n) * filled + feature;
    for (int v = 0; v < kVectors; ++v) Store(to + v * kLanes, Load(to + v * kLanes) + sum[n][v]);
  }
}

template <class Arithmetic, int kNumbers, int kVectors>
void MomentTiles(const Window& window, const float* frames, const float* cotangent, const int64_t* start, int64_t count,
                 int64_t r, int64_t q, int64_t feature, float* weights) {
  for (; q + kNumbers <= window.run; q += kNumbers)
    MomentTile<Arithmetic, kNumbers, kVectors>(window, frames, cotangent, start, count, r, q, feature, weights);
  if constexpr (kNumbers > 1) {
    MomentTiles<Arithmetic, kNumbers / 2, kVectors>(window, frames, cotangent, start, count, r, q, feature, weights);
  }
}

template <class Arithmetic>
void Moment(const Window& window, const float* frames, const float* cotangent, const Runs& pixels, int64_t count,
            float* weights) {
  for (int64_t first = 0; first < count; first += kMomentPixels) {
    const int64_t here = std::min(kMomentPixels, count - first);
    const float* slope = cotangent + first * window.filled();
    const int64_t* start = pixels.start.data() + first;
    for (int64_t r = 0; r < window.rows; ++r) {
      int64_t feature = 0;
      for (; feature + 2 * kLanes <= window.filled(); feature += 2 * kLanes)
        MomentTiles<Arithmetic, kSums / 2, 2>(window, frames, slope, start, here, r, 0, feature, weights);
      if (feature < window.filled())
        MomentTiles<Arithmetic, kSums, 1>(window, frames, slope, start, here, r, 0, feature, weights);
    }
  }
}

inline int64_t GroupOf(const Frame& frame, int64_t pixels, int64_t samples) {
  const int64_t group = std::max(kGroupWords / frame.size(), (kGroupPixels + pixels - 1) / pixels);
  return std::clamp<int64_t>(group, 1, samples);
}

template <class Arithmetic>
void Forward(const Shape& shape, const typename Arithmetic::Number* inputs, const typename Arithmetic::Number* kernels,
             typename Arithmetic::Number* outputs) {
  const int64_t words = Words<Arithmetic>(shape.channels), samples = shape.samples;
  const Frame frame{shape.height, shape.width, shape.channels, (shape.rows - 1) * shape.down + shape.tall,
                    (shape.columns - 1) * shape.across + shape.wide, shape.top, shape.left, words};
  const Window window{shape.tall, shape.wide * words, frame.columns * words, shape.features};
  const int64_t group = GroupOf(frame, shape.rows * shape.columns, samples), length = RunLength(shape.columns);
  const Runs runs(frame, group, shape.rows, shape.columns, shape.down, shape.across, length, shape.output(),
                  shape.columns * shape.features, shape.features);
  std::vector<float> frames(group * frame.size()), weights(window.size());
  for (int64_t m = 0; m < shape.models; ++m) {
    for (int64_t tap = 0; tap < shape.tall * shape.wide; ++tap)
      Pack<Arithmetic>(kernels + m * shape.kernel() + tap * shape.channels * shape.features, shape.channels,
                       shape.features, shape.features, 1, window.filled(),
                       weights.data() + tap * words * window.filled());
    for (int64_t first = 0; first < samples; first += group) {
      const int64_t here = std::min(group, samples - first), sample = m * samples + first;
      for (int64_t n = 0; n < here; ++n)
        frame.Fill<Arithmetic>(inputs + (sample + n) * shape.input(), frames.data() + n * frame.size());
      Product<Arithmetic>(window, frames.data(), weights.data(), runs, length, here * runs.a_sample,
                          outputs + sample * shape.output());
    }
  }
}

template <class Arithmetic>
void KernelGradient(const Shape& shape, const typename Arithmetic::Number* inputs,
                    const typename Arithmetic::Number* cotangents, typename Arithmetic::Number* kernels) {
  constexpr int kNumbers = Arithmetic::kNumbers;
  const int64_t samples = shape.samples, channels = shape.channels, area = shape.rows * shape.columns;
  const Frame frame{shape.height, shape.width, channels, (shape.rows - 1) * shape.down + shape.tall,
                    (shape.columns - 1) * shape.across + shape.wide, shape.top, shape.left, channels};
  const Window window{shape.tall, shape.wide * channels, frame.columns * channels, shape.features};
  const int64_t filled = window.filled(), group = GroupOf(frame, area, Words<Arithmetic>(samples));
  const Runs pixels(frame, group, shape.rows, shape.columns, shape.down, shape.across, 1, 0, 0, 0);
  std::vector<float> frames(group * frame.size()), slopes(group * area * filled), sum(window.size());
  for (int64_t m = 0; m < shape.models; ++m) {
    std::fill(sum.begin(), sum.end(), 0.f);
    for (int64_t first = 0; first < samples; first += group * kNumbers) {
      const int64_t here = std::min(group, Words<Arithmetic>(samples - first));
      for (int64_t g = 0; g < here; ++g) {
        const int64_t sample = m * samples + first + g * kNumbers, left = samples - first - g * kNumbers;
        frame.EachRow([&](int64_t from, int64_t to, int64_t row) {
          Interleave<Arithmetic>(inputs + sample * shape.input() + from, shape.input(), left, row * channels,
                                 frames.data() + g * frame.size() + to);
        });
        const int64_t chunk = filled == shape.features ? area * filled : shape.features;
        for (int64_t from = 0, to = g * area * filled; from < shape.output(); from += chunk, to += RoundUp(chunk, kLanes))
          Interleave<Arithmetic>(cotangents + sample * shape.output() + from, shape.output(), left, chunk,
                                 slopes.data() + to);
      }
      Moment<Arithmetic>(window, frames.data(), slopes.data(), pixels, here * area, sum.data());
    }
    typename Arithmetic::Number* out = kernels + m * shape.kernel();
    for (int64_t row = 0; row < window.rows * window.run; ++row)
      for (int64_t f = 0; f < shape.features; f += kLanes)
        Arithmetic::Round(out + row * shape.features + f, Load(sum.data() + row * filled + f), shape.features - f);
  }
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
void InputGradient(const Shape& shape, const typename Arithmetic::Number* cotangents,
                   const typename Arithmetic::Number* kernels, typename Arithmetic::Number* inputs) {
  const int64_t samples = shape.samples, channels = shape.channels, features = shape.features;
  const int64_t words = Words<Arithmetic>(features);
  if (shape.tall < shape.down || shape.wide < shape.across)  // some positions are reached by no tap
    std::fill(inputs, inputs + shape.models * samples * shape.input(), typename Arithmetic::Number{});
  for (int64_t y = 0; y < shape.down; ++y) {
    for (int64_t x = 0; x < shape.across; ++x) {
      const Taps vertical(y, shape.down, shape.top, shape.tall, shape.height);
      const Taps horizontal(x, shape.across, shape.left, shape.wide, shape.width);
      const int64_t tall = vertical.taps.size(), wide = horizontal.taps.size();
      if (tall * wide * vertical.places * horizontal.places == 0) continue;
      const Frame frame{shape.rows, shape.columns, features, vertical.places - 1 + tall, horizontal.places - 1 + wide,
                        -vertical.first, -horizontal.first, words};
      const Window window{tall, wide * words, frame.columns * words, channels};
      const int64_t group = GroupOf(frame, vertical.places * horizontal.places, samples);
      const int64_t length = RunLength(horizontal.places);
      const Runs runs(frame, group, vertical.places, horizontal.places, 1, 1, length, shape.input(),
                      shape.down * shape.width * channels, shape.across * channels);
      std::vector<float> frames(group * frame.size()), weights(window.size());
      for (int64_t m = 0; m < shape.models; ++m) {
        float* weight = weights.data();
        for (int64_t i : vertical.taps) {
          for (int64_t j : horizontal.taps) {
            Pack<Arithmetic>(kernels + m * shape.kernel() + (i * shape.wide + j) * channels * features, features, 1,
                             channels, features, window.filled(), weight);
            weight += words * window.filled();
          }
        }
        typename Arithmetic::Number* out = inputs + m * samples * shape.input() + (y * shape.width + x) * channels;
        for (int64_t first = 0; first < samples; first += group) {
          const int64_t here = std::min(group, samples - first);
          for (int64_t n = 0; n < here; ++n)
            frame.Fill<Arithmetic>(cotangents + (m * samples + first + n) * shape.output(),
                                   frames.data() + n * frame.size());
          Product<Arithmetic>(window, frames.data(), weights.data(), runs, length, here * runs.a_sample,
                              out + first * shape.input());
        }
      }
    }
  }
}

}  // namespace jaxmia
