// Sizes of convolutions, and the taps that reach an input.

#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace jaxmia {

// Smallest integer of at least value / unit.
inline int64_t Ceiling(int64_t value, int64_t unit) { return value > 0 ? (value + unit - 1) / unit : value / unit; }

// Sizes of one convolution: inputs [models, samples, height, width, channels], kernels [models, tall, wide, channels of a
// group, features], outputs [models, samples, rows, columns, features]. Each group of adjacent channels gives a group of
// adjacent features; taps are `gap_down` rows and `gap_across` columns apart.
struct Shape {
  int64_t models, samples, height, width, channels, tall, wide, features, rows, columns, down, across, top, left,
      gap_down, gap_across, groups;

  int64_t channels_of_group() const { return channels / groups; }
  int64_t features_of_group() const { return features / groups; }
  int64_t taps() const { return tall * wide; }
  int64_t input() const { return height * width * channels; }
  int64_t kernel() const { return taps() * channels_of_group() * features; }
  int64_t output() const { return rows * columns * features; }
  int64_t products() const { return models * samples * rows * columns * kernel(); }

  // Whether some positions of the inputs are reached by no tap, because of their remainder modulo the stride.
  bool LeavesGaps() const {
    return tall < down || wide < across || std::gcd(gap_down, down) > 1 || std::gcd(gap_across, across) > 1;
  }
};

// `count` integers from zero on, `gap` apart.
inline std::vector<int64_t> Multiples(int64_t count, int64_t gap) {
  std::vector<int64_t> multiples(count);
  for (int64_t i = 0; i < count; ++i) multiples[i] = i * gap;
  return multiples;
}

// Along one axis, the taps that reach the input positions first, first + stride, ..., last first, with the output that
// each meets at the first of them, in ascending order.
struct Reach {
  int64_t places;
  std::vector<int64_t> taps, outputs;

  // Number of outputs from the first to the last that any place reads.
  int64_t extent() const { return places + outputs.back() - outputs.front(); }

  std::vector<int64_t> distances() const {
    std::vector<int64_t> from_first;
    for (int64_t output : outputs) from_first.push_back(output - outputs.front());
    return from_first;
  }

  Reach(int64_t first, int64_t stride, int64_t padding, int64_t size, int64_t gap, int64_t length)
      : places(Ceiling(length - first, stride)) {
    for (int64_t tap = size - 1; tap >= 0; --tap) {
      if ((first + padding - tap * gap) % stride != 0) continue;
      taps.push_back(tap);
      outputs.push_back((first + padding - tap * gap) / stride);
    }
  }
};

}  // namespace jaxmia
