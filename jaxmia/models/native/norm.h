// Batch normalisation of many models with what follows it: nothing, a ReLU, or a sum with a shortcut and a ReLU.
//
// Arrays are [models, pixels, channels]; statistics and parameters are float32 [models, channels].

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace jaxmia {

enum Activation : int64_t { kNone, kRelu, kAddRelu };

// Pixels that are summed in float32 before they are added in float64; their numbers stay in the L1 cache.
constexpr int64_t kNormPixels = 64;

struct NormShape {
  int64_t models, pixels, channels;

  int64_t size() const { return pixels * channels; }
};

// Calls work(first pixel, pixels, first channel, channels) for parts of a few pixels and at most a vector of channels.
template <typename Work>
void InParts(const NormShape& shape, Work work) {
  for (int64_t first = 0; first < shape.pixels; first += kNormPixels)
    for (int64_t c = 0; c < shape.channels; c += kLanes)
      work(first, std::min(kNormPixels, shape.pixels - first), c, std::min<int64_t>(kLanes, shape.channels - c));
}

// Parameters of one model, with channels padded to whole vectors.
struct Padded {
  std::vector<float> numbers;

  explicit Padded(int64_t channels) : numbers(RoundUp(channels, kLanes)) {}
  Padded(const float* from, int64_t channels) : Padded(channels) { std::copy(from, from + channels, numbers.begin()); }

  Vector at(int64_t channel) const { return Load(numbers.data() + channel); }
  float& operator[](int64_t channel) { return numbers[channel]; }
};

// Sums of two quantities over pixels, per channel: work(number of the pixel's first channel, count) returns them.
struct Sums {
  std::vector<double> left, right;

  explicit Sums(int64_t channels) : left(RoundUp(channels, kLanes)), right(left.size()) {}

  void Add(int64_t channel, Vector first, Vector second) {
    for (int i = 0; i < kLanes; ++i) {
      left[channel + i] += first[i];
      right[channel + i] += second[i];
    }
  }
};

template <class Arithmetic>
void NormForward(const NormShape& shape, Activation activation, float epsilon,
                 const typename Arithmetic::Number* inputs, const typename Arithmetic::Number* shortcuts,
                 const float* scale, const float* bias, typename Arithmetic::Number* outputs, float* mean,
                 float* variance) {
  using Number = typename Arithmetic::Number;
  const int64_t channels = shape.channels;
  for (int64_t m = 0; m < shape.models; ++m, mean += channels, variance += channels) {
    const Number* input = inputs + m * shape.size();
    const Number* shortcut = shortcuts + m * shape.size();
    Number* output = outputs + m * shape.size();
    // Differences from the first pixel, so that the variance does not cancel when the mean is far from zero.
    Padded origin(channels), gain(channels), shift(channels);
    for (int64_t c = 0; c < channels; c += kLanes)
      Store(&origin[c], Arithmetic::Widen(input + c, channels - c));
    Sums sums(channels);
    InParts(shape, [&](int64_t first, int64_t pixels, int64_t c, int64_t here) {
      const Vector zero = origin.at(c);
      Vector sum[2] = {}, square[2] = {};
      for (int64_t p = 0; p < pixels; ++p) {
        const Vector distance = Arithmetic::Widen(input + (first + p) * channels + c, here) - zero;
        sum[p % 2] += distance;
        square[p % 2] += distance * distance;
      }
      sums.Add(c, sum[0] + sum[1], square[0] + square[1]);
    });
    for (int64_t c = 0; c < channels; ++c) {
      const double distance = sums.left[c] / shape.pixels;
      mean[c] = distance + origin[c];
      variance[c] = std::max(sums.right[c] / shape.pixels - distance * distance, 0.);
      gain[c] = scale[m * channels + c] / std::sqrt(variance[c] + epsilon);
      shift[c] = bias[m * channels + c] - mean[c] * gain[c];
    }
    InParts(shape, [&](int64_t first, int64_t pixels, int64_t c, int64_t here) {
      const Vector factor = gain.at(c), offset = shift.at(c);
      for (int64_t p = 0, at = first * channels + c; p < pixels; ++p, at += channels) {
        Vector value = Arithmetic::Widen(input + at, here) * factor + offset;
        if (activation == kAddRelu) value += Arithmetic::Widen(shortcut + at, here);
        if (activation != kNone) value = value > 0.f ? value : Vector{};
        Arithmetic::Round(output + at, value, here);
      }
    });
  }
}

// Gradients with respect to inputs, shortcuts (for kAddRelu), scale and bias. `outputs` are read for kAddRelu only, and
// input gradients may take the place of the cotangents.
template <class Arithmetic>
void NormBackward(const NormShape& shape, Activation activation, float epsilon,
                  const typename Arithmetic::Number* inputs, const typename Arithmetic::Number* outputs,
                  const typename Arithmetic::Number* cotangents, const float* scale, const float* bias,
                  const float* mean, const float* variance, typename Arithmetic::Number* input_slopes,
                  typename Arithmetic::Number* shortcut_slopes, float* scale_slope, float* bias_slope) {
  using Number = typename Arithmetic::Number;
  const int64_t channels = shape.channels;
  for (int64_t m = 0; m < shape.models; ++m) {
    const int64_t base = m * shape.size(), own = m * channels;
    Padded middle(mean + own, channels), gain(channels), shift(channels), constant(channels), slope(channels);
    std::vector<float> inverse(channels);
    for (int64_t c = 0; c < channels; ++c) {
      inverse[c] = 1 / std::sqrt(variance[own + c] + epsilon);
      gain[c] = scale[own + c] * inverse[c];
      shift[c] = bias[own + c] - mean[own + c] * gain[c];
    }
    const auto masked = [&](const Number* cotangent, int64_t at, int64_t c, int64_t here, Vector value) {
      const Vector given = Arithmetic::Widen(cotangent + at, here);
      if (activation == kNone) return given;
      const Vector result =
          activation == kRelu ? value * gain.at(c) + shift.at(c) : Arithmetic::Widen(outputs + at, here);
      return result > 0.f ? given : Vector{};
    };
    Sums sums(channels);
    InParts(shape, [&](int64_t first, int64_t pixels, int64_t c, int64_t here) {
      const Vector center = middle.at(c);
      Vector sum[2] = {}, product[2] = {};
      for (int64_t p = 0, at = base + first * channels + c; p < pixels; ++p, at += channels) {
        const Vector value = Arithmetic::Widen(inputs + at, here), given = masked(cotangents, at, c, here, value);
        if (activation == kAddRelu) Arithmetic::Round(shortcut_slopes + at, given, here);
        sum[p % 2] += given;
        product[p % 2] += given * (value - center);
      }
      sums.Add(c, sum[0] + sum[1], product[0] + product[1]);
    });
    // The gradient is gain * given + slope * input + constant.
    for (int64_t c = 0; c < channels; ++c) {
      bias_slope[own + c] = sums.left[c];
      scale_slope[own + c] = sums.right[c] * inverse[c];
      slope[c] = -gain[c] * inverse[c] * scale_slope[own + c] / shape.pixels;
      constant[c] = -gain[c] * bias_slope[own + c] / shape.pixels - slope[c] * middle[c];
    }
    InParts(shape, [&](int64_t first, int64_t pixels, int64_t c, int64_t here) {
      const Vector factor = gain.at(c), steepness = slope.at(c), offset = constant.at(c);
      for (int64_t p = 0, at = base + first * channels + c; p < pixels; ++p, at += channels) {
        const Vector value = Arithmetic::Widen(inputs + at, here);
        const Vector given = activation == kAddRelu ? Arithmetic::Widen(shortcut_slopes + at, here)
                                                    : masked(cotangents, at, c, here, value);
        Arithmetic::Round(input_slopes + at, factor * given + (steepness * value + offset), here);
      }
    });
  }
}

}  // namespace jaxmia
