// Convolutions of many models at once for XLA on CPUs: float32, channels last, the model axis first in every array.
//
// For each output pixel, a convolution reads `rows` runs of `run` contiguous numbers from a padded image, since a row
// of the kernel covers adjacent columns and channels come last. All three parts of a convolution are therefore one of
//   product:  out[pixel, f]   = sum over r, q of image[start[pixel] + r * pitch + q] * weights[r, q, f]
//   moment:   weights[r, q, f] = sum over pixels of image[start[pixel] + r * pitch + q] * cotangent[pixel, f]
// The input gradient of a strided convolution is one product for each remainder of the input's position modulo the
// stride.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

// Samples are processed in groups: small enough for their padded images to stay in a core's L2 cache, and large enough
// to have the pixels that amortise fetching the weights.
constexpr int64_t kGroupFloats = 1 << 15, kGroupPixels = 256;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

Vector Load(const float* from) { return *reinterpret_cast<const Vector*>(from); }

void Store(float* to, Vector value, int64_t count) {
  if (count >= kLanes) {
    *reinterpret_cast<Vector*>(to) = value;
  } else {
    std::memcpy(to, &value, count * sizeof(float));
  }
}

// An image [height, width, channels] placed at (top, left) in a frame of zeros [rows, columns, channels]; what exceeds
// the frame is clipped.
struct Frame {
  int64_t height, width, channels, rows, columns, top, left;

  int64_t size() const { return rows * columns * channels; }

  void Fill(const float* image, float* frame) const {
    std::fill(frame, frame + size(), 0.f);
    const int64_t first = std::max<int64_t>(0, -left), last = std::min(width, columns - left);
    if (last <= first) return;
    for (int64_t y = std::max<int64_t>(0, -top); y < std::min(height, rows - top); ++y) {
      std::memcpy(frame + ((y + top) * columns + first + left) * channels, image + (y * width + first) * channels,
                  (last - first) * channels * sizeof(float));
    }
  }
};

// Offset of each pixel of a group of samples in the padded images, and in the output.
struct Pixels {
  std::vector<int64_t> start, place;
  int64_t a_sample;

  Pixels(const Frame& frame, int64_t samples, int64_t height, int64_t width, int64_t down, int64_t across,
         int64_t out_sample, int64_t out_row, int64_t out_pixel)
      : a_sample(height * width) {
    for (int64_t n = 0; n < samples; ++n) {
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
          start.push_back(n * frame.size() + (y * down * frame.columns + x * across) * frame.channels);
          place.push_back(n * out_sample + y * out_row + x * out_pixel);
        }
      }
    }
  }
};

// Sizes of a window and its weights [rows, run, features], with features padded to whole vectors.
struct Window {
  int64_t rows, run, pitch, features;

  int64_t filled() const { return RoundUp(features, kLanes); }
  int64_t size() const { return rows * run * filled(); }
};

template <int kPixels, int kVectors>
void ProductBlock(const Window& window, const float* frames, const float* weights, const Pixels& pixels, int64_t count,
                  int64_t feature, float* out) {
  const int64_t filled = window.filled();
  for (int64_t first = 0; first < count; first += kPixels) {
    const float* from[kPixels];
    for (int p = 0; p < kPixels; ++p) from[p] = frames + pixels.start[std::min(first + p, count - 1)];
    Vector sum[kPixels][kVectors] = {};
    const float* weight = weights + feature;
    for (int64_t r = 0; r < window.rows; ++r) {
      for (int64_t q = 0; q < window.run; ++q, weight += filled) {
        Vector factor[kVectors];
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) factor[v] = Load(weight + v * kLanes);
#pragma GCC unroll 16
        for (int p = 0; p < kPixels; ++p) {
          const Vector value = Vector{} + from[p][q];
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) sum[p][v] += value * factor[v];
        }
      }
      for (int p = 0; p < kPixels; ++p) from[p] += window.pitch;
    }
    const int64_t here = std::min<int64_t>(kPixels, count - first);
    for (int64_t p = 0; p < here; ++p) {
      float* to = out + pixels.place[first + p] + feature;
      for (int v = 0; v < kVectors; ++v) Store(to + v * kLanes, sum[p][v], window.features - feature - v * kLanes);
    }
  }
}

void Product(const Window& window, const float* frames, const float* weights, const Pixels& pixels, int64_t count,
             float* out) {
  int64_t feature = 0;
  for (; feature + 4 * kLanes <= window.filled(); feature += 4 * kLanes)
    ProductBlock<6, 4>(window, frames, weights, pixels, count, feature, out);
  for (; feature + 2 * kLanes <= window.filled(); feature += 2 * kLanes)
    ProductBlock<8, 2>(window, frames, weights, pixels, count, feature, out);
  for (; feature < window.filled(); feature += kLanes)
    ProductBlock<8, 1>(window, frames, weights, pixels, count, feature, out);
}

template <int kNumbers, int kVectors>
void MomentBlock(const Window& window, const float* frames, const float* cotangent, const Pixels& pixels, int64_t count,
                 int64_t r, int64_t q, int64_t feature, float* weights) {
  const int64_t filled = window.filled();
  Vector sum[kNumbers][kVectors] = {};
  const float* from = frames + r * window.pitch + q;
  for (int64_t p = 0; p < count; ++p) {
    const float* numbers = from + pixels.start[p];
    Vector factor[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) factor[v] = Load(cotangent + p * filled + feature + v * kLanes);
#pragma GCC unroll 16
    for (int n = 0; n < kNumbers; ++n) {
      const Vector value = Vector{} + numbers[n];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[n][v] += value * factor[v];
    }
  }
  for (int n = 0; n < kNumbers; ++n) {
    float* to = weights + ((r * window.run + q + n) * filled + feature);
    for (int v = 0; v < kVectors; ++v) Store(to + v * kLanes, Load(to + v * kLanes) + sum[n][v], kLanes);
  }
}

template <int kNumbers, int kVectors>
void MomentRun(const Window& window, const float* frames, const float* cotangent, const Pixels& pixels, int64_t count,
               int64_t r, int64_t q, int64_t feature, float* weights) {
  for (; q + kNumbers <= window.run; q += kNumbers)
    MomentBlock<kNumbers, kVectors>(window, frames, cotangent, pixels, count, r, q, feature, weights);
  if constexpr (kNumbers > 1) {
    MomentRun<kNumbers / 2, kVectors>(window, frames, cotangent, pixels, count, r, q, feature, weights);
  }
}

void Moment(const Window& window, const float* frames, const float* cotangent, const Pixels& pixels, int64_t count,
            float* weights) {
  for (int64_t r = 0; r < window.rows; ++r) {
    int64_t feature = 0;
    for (; feature + 2 * kLanes <= window.filled(); feature += 2 * kLanes)
      MomentRun<8, 2>(window, frames, cotangent, pixels, count, r, 0, feature, weights);
    for (; feature < window.filled(); feature += kLanes)
      MomentRun<16, 1>(window, frames, cotangent, pixels, count, r, 0, feature, weights);
  }
}

// Sizes of one convolution: inputs [models, samples, height, width, channels], kernels [models, taps down, taps across,
// channels, features], outputs [models, samples, rows, columns, features].
struct Shape {
  int64_t models, samples, height, width, channels, tall, wide, features, rows, columns, down, across, top, left;

  Shape(ffi::Span<const int64_t> inputs, ffi::Span<const int64_t> kernels, ffi::Span<const int64_t> outputs,
        int64_t down, int64_t across, int64_t top, int64_t left)
      : models(inputs[0]), samples(inputs[1]), height(inputs[2]), width(inputs[3]), channels(inputs[4]),
        tall(kernels[1]), wide(kernels[2]), features(kernels[4]), rows(outputs[2]), columns(outputs[3]),
        down(down), across(across), top(top), left(left) {}

  int64_t input() const { return height * width * channels; }
  int64_t kernel() const { return tall * wide * channels * features; }
  int64_t output() const { return rows * columns * features; }

  Frame frame() const {
    return {height, width, channels, (rows - 1) * down + tall, (columns - 1) * across + wide, top, left};
  }
  Window window() const { return {tall, wide * channels, frame().columns * channels, features}; }
};

int64_t GroupOf(const Frame& frame, int64_t pixels, int64_t samples) {
  const int64_t group = std::max(kGroupFloats / frame.size(), (kGroupPixels + pixels - 1) / pixels);
  return std::clamp<int64_t>(group, 1, samples);
}

// Calls work(first sample, samples, their frames) for each group of samples of one model.
template <typename Work>
void InGroups(const Frame& frame, const float* images, int64_t samples, int64_t group, std::vector<float>& frames,
              Work work) {
  const int64_t image = frame.height * frame.width * frame.channels;
  for (int64_t first = 0; first < samples; first += group) {
    const int64_t here = std::min(group, samples - first);
    for (int64_t n = 0; n < here; ++n) frame.Fill(images + (first + n) * image, frames.data() + n * frame.size());
    work(first, here, frames.data());
  }
}

// Rows [count, features] with each row zero-padded to whole vectors; returns the given rows if none needs padding.
const float* Filled(const float* rows, int64_t count, const Window& window, std::vector<float>& room) {
  if (window.filled() == window.features) return rows;
  room.assign(count * window.filled(), 0.f);
  for (int64_t row = 0; row < count; ++row)
    std::memcpy(room.data() + row * window.filled(), rows + row * window.features, window.features * sizeof(float));
  return room.data();
}

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

ffi::Error Forward(Array inputs, Array kernels, Result outputs, int64_t down, int64_t across, int64_t top,
                   int64_t left) {
  const Shape shape(inputs.dimensions(), kernels.dimensions(), outputs->dimensions(), down, across, top, left);
  const Frame frame = shape.frame();
  const Window window = shape.window();
  const int64_t group = GroupOf(frame, shape.rows * shape.columns, shape.samples);
  const Pixels pixels(frame, group, shape.rows, shape.columns, down, across, shape.output(),
                      shape.columns * shape.features, shape.features);
  std::vector<float> frames(group * frame.size()), room;
  for (int64_t m = 0; m < shape.models; ++m) {
    const float* weights = Filled(kernels.typed_data() + m * shape.kernel(), window.rows * window.run, window, room);
    float* out = outputs->typed_data() + m * shape.samples * shape.output();
    InGroups(frame, inputs.typed_data() + m * shape.samples * shape.input(), shape.samples, group, frames,
             [&](int64_t first, int64_t here, const float* images) {
               Product(window, images, weights, pixels, here * pixels.a_sample, out + first * shape.output());
             });
  }
  return ffi::Error::Success();
}

ffi::Error KernelGradient(Array inputs, Array cotangents, Result kernels, int64_t down, int64_t across, int64_t top,
                          int64_t left) {
  const Shape shape(inputs.dimensions(), kernels->dimensions(), cotangents.dimensions(), down, across, top, left);
  const Frame frame = shape.frame();
  const Window window = shape.window();
  const int64_t group = GroupOf(frame, shape.rows * shape.columns, shape.samples);
  const Pixels pixels(frame, group, shape.rows, shape.columns, down, across, 0, 0, 0);
  std::vector<float> frames(group * frame.size()), room, sum(window.size());
  for (int64_t m = 0; m < shape.models; ++m) {
    std::fill(sum.begin(), sum.end(), 0.f);
    const float* cotangent = cotangents.typed_data() + m * shape.samples * shape.output();
    InGroups(frame, inputs.typed_data() + m * shape.samples * shape.input(), shape.samples, group, frames,
             [&](int64_t first, int64_t here, const float* images) {
               const int64_t count = here * pixels.a_sample;
               Moment(window, images, Filled(cotangent + first * shape.output(), count, window, room), pixels, count,
                      sum.data());
             });
    float* out = kernels->typed_data() + m * shape.kernel();
    for (int64_t row = 0; row < window.rows * window.run; ++row)
      std::memcpy(out + row * window.features, sum.data() + row * window.filled(), window.features * sizeof(float));
  }
  return ffi::Error::Success();
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

ffi::Error InputGradient(Array cotangents, Array kernels, Result inputs, int64_t down, int64_t across, int64_t top,
                         int64_t left) {
  const Shape shape(inputs->dimensions(), kernels.dimensions(), cotangents.dimensions(), down, across, top, left);
  const int64_t models = shape.models, samples = shape.samples, channels = shape.channels, features = shape.features;
  float* gradients = inputs->typed_data();
  if (shape.tall < down || shape.wide < across)  // some positions are reached by no tap
    std::fill(gradients, gradients + models * samples * shape.input(), 0.f);
  for (int64_t y = 0; y < down; ++y) {
    for (int64_t x = 0; x < across; ++x) {
      const Taps vertical(y, down, top, shape.tall, shape.height), horizontal(x, across, left, shape.wide, shape.width);
      const int64_t tall = vertical.taps.size(), wide = horizontal.taps.size();
      if (tall * wide * vertical.places * horizontal.places == 0) continue;
      const Frame frame{shape.rows, shape.columns, features, vertical.places - 1 + tall, horizontal.places - 1 + wide,
                        -vertical.first, -horizontal.first};
      const Window window{tall, wide * features, frame.columns * features, channels};
      const int64_t group = GroupOf(frame, vertical.places * horizontal.places, samples);
      const Pixels pixels(frame, group, vertical.places, horizontal.places, 1, 1, shape.input(),
                          down * shape.width * channels, across * channels);
      std::vector<float> frames(group * frame.size()), weights(window.size());
      for (int64_t m = 0; m < models; ++m) {
        const float* kernel = kernels.typed_data() + m * shape.kernel();
        float* weight = weights.data();
        for (int64_t i : vertical.taps) {
          for (int64_t j : horizontal.taps) {
            const float* tap = kernel + (i * shape.wide + j) * channels * features;
            for (int64_t f = 0; f < features; ++f, weight += window.filled())
              for (int64_t c = 0; c < channels; ++c) weight[c] = tap[c * features + f];
          }
        }
        float* out = gradients + m * samples * shape.input() + (y * shape.width + x) * channels;
        InGroups(frame, cotangents.typed_data() + m * samples * shape.output(), samples, group, frames,
                 [&](int64_t first, int64_t here, const float* images) {
                   Product(window, images, weights.data(), pixels, here * pixels.a_sample, out + first * shape.input());
                 });
      }
    }
  }
  return ffi::Error::Success();
}

}  // namespace

#define JAXMIA_CONVOLUTION(symbol, function)                                                               \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(symbol, function,                                                          \
                                ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Ret<Array>()                    \
                                    .Attr<int64_t>("down").Attr<int64_t>("across").Attr<int64_t>("top").Attr<int64_t>("left"))

JAXMIA_CONVOLUTION(jaxmia_conv_forward, Forward);
JAXMIA_CONVOLUTION(jaxmia_conv_input_gradient, InputGradient);
JAXMIA_CONVOLUTION(jaxmia_conv_kernel_gradient, KernelGradient);
