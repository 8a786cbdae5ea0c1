// Batch normalisation of many models with what follows it: nothing, a ReLU, or a sum with a shortcut and a ReLU.
//
// Arrays are [models, pixels, channels]; statistics and parameters are float32 [models, channels].

#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "threads.h"
#include "vectors.h"

namespace jaxmia {

enum Activation : int64_t { kNone, kRelu, kAddRelu };

// Pixels that are summed in float32 before they are added in float64; their numbers stay in the L1 cache.
constexpr int64_t kNormPixels = 64;

// Numbers that a thread takes at a time, and multiply-adds that take as long as a number's two passes.
constexpr int64_t kNormNumbers = 1 << 14, kNormWork = 32;

struct NormShape {
  int64_t models, pixels, channels;

  int64_t size() const { return pixels * channels; }

  // Pixels that a thread takes at a time, whatever the number of threads, and how often it does.
  int64_t share() const { return RoundUp(std::max<int64_t>(1, kNormNumbers / channels), kNormPixels); }
  int64_t shares() const { return (pixels + share() - 1) / share(); }
};

// Calls work(share, first pixel, pixels, first channel, channels) for parts of a few pixels and at most a vector of
// channels; a whole vector is a constant, so that nothing is decided pixel by pixel.
template <typename Work>
void InParts(const Threads& threads, const NormShape& shape, Work work) {
  const int64_t shares = shape.shares();
  threads.For(kNormWork * shape.size()).Share(shares, [&](auto next) {
    for (int64_t share; (share = next()) < shares;) {
      const int64_t end = std::min(shape.pixels, (share + 1) * shape.share());
      for (int64_t first = share * shape.share(); first < end; first += kNormPixels) {
        const int64_t pixels = std::min(kNormPixels, end - first);
        int64_t c = 0;
        for (; c + kLanes <= shape.channels; c += kLanes)
          work(share, first, pixels, c, std::integral_constant<int64_t, kLanes>{});
        if (c < shape.channels) work(share, first, pixels, c, shape.channels - c);
      }
    }
  });
}

// Calls work(activation) with the activation as a constant.
template <typename Work>
void ForActivation(Activation activation, Work work) {
  if (activation == kNone) work(std::integral_constant<Activation, kNone>{});
  if (activation == kRelu) work(std::integral_constant<Activation, kRelu>{});
  if (activation == kAddRelu) work(std::integral_constant<Activation, kAddRelu>{});
}

// Parameters of one model, with channels padded to whole vectors.
struct Padded {
  std::vector<float> numbers;

  explicit Padded(int64_t channels) : numbers(RoundUp(channels, kLanes)) {}
  Padded(const float* from, int64_t channels) : Padded(channels) { std::copy(from, from + channels, numbers.begin()); }

  Vector at(int64_t channel) const { return Load(numbers.data() + channel); }
  float& operator[](int64_t channel) { return numbers[channel]; }
};

// Sums of two quantities over pixels, per channel: those of each share, which `Total` adds in their order.
class Sums {
 public:
  explicit Sums(const NormShape& shape)
      : filled_(RoundUp(shape.channels, kLanes)), sums_(shape.shares() * 2 * filled_) {}

  void Add(int64_t share, int64_t channel, Vector first, Vector second) {
    double* to = &sums_[share * 2 * filled_ + channel];
    Doubles(to) += __builtin_convertvector(first, DoubleVector);
    Doubles(to + filled_) += __builtin_convertvector(second, DoubleVector);
  }

  void Total() {
    for (size_t from = 2 * filled_; from < sums_.size(); from += 2 * filled_)
      for (int64_t i = 0; i < 2 * filled_; ++i) sums_[i] += sums_[from + i];
  }

  double first(int64_t channel) const { return sums_[channel]; }
  double second(int64_t channel) const { return sums_[filled_ + channel]; }

 private:
  typedef double DoubleVector __attribute__((vector_size(kLanes * sizeof(double)), aligned(8), may_alias));

  static DoubleVector& Doubles(double* at) { return *reinterpret_cast<DoubleVector*>(at); }

  int64_t filled_;
  std::vector<double> sums_;
};

// Sum of partial sums, which do not wait for each other.
inline Vector Total(const Vector (&parts)[4]) { return (parts[0] + parts[1]) + (parts[2] + parts[3]); }

template <class Arithmetic>
void NormForward(const Threads& threads, const NormShape& shape, Activation activation, float epsilon,
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
    Sums sums(shape);
    InParts(threads, shape, [&](int64_t share, int64_t first, int64_t pixels, int64_t c, auto here) {
      const Vector zero = origin.at(c);
      Vector sum[4] = {}, square[4] = {};
      for (int64_t p = 0; p < pixels; ++p) {
        const Vector distance = Arithmetic::Widen(input + (first + p) * channels + c, here) - zero;
        sum[p % 4] += distance;
        square[p % 4] += distance * distance;
      }
      sums.Add(share, c, Total(sum), Total(square));
    });
    sums.Total();
    for (int64_t c = 0; c < channels; ++c) {
      const double distance = sums.first(c) / shape.pixels;
      mean[c] = distance + origin[c];
      variance[c] = std::max(sums.second(c) / shape.pixels - distance * distance, 0.);
      gain[c] = scale[m * channels + c] / std::sqrt(variance[c] + epsilon);
      shift[c] = bias[m * channels + c] - mean[c] * gain[c];
    }
    ForActivation(activation, [&](auto follows) {
      InParts(threads, shape, [&](int64_t, int64_t first, int64_t pixels, int64_t c, auto here) {
        const Vector factor = gain.at(c), offset = shift.at(c);
        for (int64_t p = 0, at = first * channels + c; p < pixels; ++p, at += channels) {
          Vector value = Arithmetic::Widen(input + at, here) * factor + offset;
          if (follows == kAddRelu) value += Arithmetic::Widen(shortcut + at, here);
          if (follows != kNone) value = value > 0.f ? value : Vector{};
          Arithmetic::Round(output + at, value, here);
        }
      });
    });
  }
}

// Gradients with respect to inputs, shortcuts (for kAddRelu), scale and bias. `outputs` are read for kAddRelu only, and
// input gradients may take the place of the cotangents.
template <class Arithmetic>
void NormBackward(const Threads& threads, const NormShape& shape, Activation activation, float epsilon,
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
    // The cotangent behind the activation; `factor` and `offset` are those of the forward pass.
    const auto masked = [&](auto follows, int64_t at, auto here, Vector value, Vector factor, Vector offset) {
      const Vector given = Arithmetic::Widen(cotangents + at, here);
      if (follows == kNone) return given;
      const Vector result = follows == kRelu ? value * factor + offset : Arithmetic::Widen(outputs + at, here);
      return result > 0.f ? given : Vector{};
    };
    Sums sums(shape);
    ForActivation(activation, [&](auto follows) {
      InParts(threads, shape, [&](int64_t share, int64_t first, int64_t pixels, int64_t c, auto here) {
        const Vector center = middle.at(c), factor = gain.at(c), offset = shift.at(c);
        Vector sum[4] = {}, product[4] = {};
        for (int64_t p = 0, at = base + first * channels + c; p < pixels; ++p, at += channels) {
          const Vector value = Arithmetic::Widen(inputs + at, here);
          const Vector given = masked(follows, at, here, value, factor, offset);
          if (follows == kAddRelu) Arithmetic::Round(shortcut_slopes + at, given, here);
          sum[p % 4] += given;
          product[p % 4] += given * (value - center);
        }
        sums.Add(share, c, Total(sum), Total(product));
      });
    });
    sums.Total();
    // The gradient is gain * given + slope * input + constant.
    for (int64_t c = 0; c < channels; ++c) {
      bias_slope[own + c] = sums.first(c);
      scale_slope[own + c] = sums.second(c) * inverse[c];
      slope[c] = -gain[c] * inverse[c] * scale_slope[own + c] / shape.pixels;
      constant[c] = -gain[c] * bias_slope[own + c] / shape.pixels - slope[c] * middle[c];
    }
    ForActivation(activation, [&](auto follows) {
      InParts(threads, shape, [&](int64_t, int64_t first, int64_t pixels, int64_t c, auto here) {
        const Vector factor = gain.at(c), offset = shift.at(c), steepness = slope.at(c), summand = constant.at(c);
        for (int64_t p = 0, at = base + first * channels + c; p < pixels; ++p, at += channels) {
          const Vector value = Arithmetic::Widen(inputs + at, here);
          const Vector given = follows == kAddRelu ? Arithmetic::Widen(shortcut_slopes + at, here)
                                                   : masked(follows, at, here, value, factor, offset);
          Arithmetic::Round(input_slopes + at, factor * given + (steepness * value + summand), here);
        }
      });
    });
  }
}

}  // namespace jaxmia
