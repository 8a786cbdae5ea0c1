// The two sums of which convolutions of many models are made, over the padded images of some samples.
//
// For each output pixel, a convolution reads runs of `run` contiguous words from a padded image, since a row of the
// kernel covers adjacent columns, unless it is dilated, and channels come last. The sums are
//   product:  out[pixel, f]    = sum over r, q of image[start[pixel] + run_start[r] + q] * weights[r, q, f]
//   moment:   weights[r, q, f] = sum over pixels of image[start[pixel] + run_start[r] + q] * cotangent[pixel, f]
// where a word of bfloat16 holds two numbers that are summed over: two channels in a product, two samples in a moment.

#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace jaxmia {

// Pixels of a moment whose words stay in the L1 cache.
constexpr int64_t kMomentPixels = 128;

// A group of channels of images [height, width, all channels] placed at (top, left) in frames [rows, columns, words]
// whose rest stays zero; what exceeds the frame is clipped.
struct Frame {
  int64_t height, width, all_channels, channels, rows, columns, top, left, words;

  int64_t size() const { return rows * columns * words; }
  int64_t At(int64_t row, int64_t column) const { return (row * columns + column) * words; }

  // Calls work(first number in the image, first word in the frame, pixels) for each visible part of a row.
  template <typename Work>
  void EachRow(Work work) const {
    const int64_t first = std::max<int64_t>(0, -left), last = std::min(width, columns - left);
    if (last <= first) return;
    for (int64_t y = std::max<int64_t>(0, -top); y < std::min(height, rows - top); ++y)
      work((y * width + first) * all_channels, ((y + top) * columns + first + left) * words, last - first);
  }

  // Fills the words of a pixel, which hold adjacent channels.
  template <class Arithmetic>
  void FillPixel(const typename Arithmetic::Number* pixel, float* to) const {
    if (channels % Arithmetic::kNumbers == 0) {
      CopyWords(reinterpret_cast<const float*>(pixel), words, to);
    } else if (channels == 3) {
      std::memcpy(to, pixel, 3 * sizeof(*pixel));  // of constant size, which is ten times as fast
    } else {
      std::memcpy(to, pixel, channels * sizeof(*pixel));
    }
  }

  // Fills a frame.
  template <class Arithmetic>
  void Fill(const typename Arithmetic::Number* image, float* frame) const {
    EachRow([&](int64_t from, int64_t to, int64_t pixels) {
      if (channels == all_channels && channels % Arithmetic::kNumbers == 0) {
        std::memcpy(frame + to, image + from, pixels * channels * sizeof(*image));
      } else {
        for (int64_t x = 0; x < pixels; ++x)
          FillPixel<Arithmetic>(image + from + x * all_channels, frame + to + x * words);
      }
    });
  }
};

// Runs of a window, the words at which they begin, and its weights [run, word, features], with features padded to whole
// vectors.
struct Window {
  std::vector<int64_t> starts;
  int64_t run, features;

  // Of taps at these rows and columns of a frame.
  Window(const Frame& frame, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns, int64_t features)
      : run(frame.words), features(features) {
    const int64_t wide = columns.size(), first = columns.front();
    const bool adjacent = columns.back() - first == wide - 1;
    if (adjacent) run *= wide;
    for (int64_t row : rows)
      for (int64_t j = 0; j < (adjacent ? 1 : wide); ++j)
        starts.push_back(frame.At(row, columns[j]));
  }

  // Of a single run.
  Window(int64_t run, int64_t features) : starts{0}, run(run), features(features) {}

  int64_t words() const { return starts.size() * run; }
  int64_t filled() const { return RoundUp(features, kLanes); }
  int64_t size() const { return words() * filled(); }
};

// Pixels that are computed for each sample: rows and columns of them, steps from one window to the next in the padded
// image, and steps of numbers in the output from one sample, row and pixel to the next.
struct Pixels {
  int64_t rows, columns, down, across, sample_step, row_step, pixel_step;

  int64_t Place(int64_t sample, int64_t row, int64_t column) const {
    return sample * sample_step + row * row_step + column * pixel_step;
  }
};

// Runs of output pixels: offsets of their first pixels in the frames and in the output, and from pixel to pixel.
struct Runs {
  std::vector<int64_t> start, place;
  int64_t start_step, place_step;

  // Of adjacent pixels of a row, for samples whose frames are `apart` words apart. The last run of a row overlaps the one
  // before where the row is no multiple. Every sample has `InSample` of them.
  Runs(const Frame& frame, const Pixels& pixels, int64_t samples, int64_t length, int64_t apart)
      : start_step(pixels.across * frame.words), place_step(pixels.pixel_step) {
    for (int64_t n = 0; n < samples; ++n) {
      for (int64_t y = 0; y < pixels.rows; ++y) {
        for (int64_t x = 0; x < pixels.columns; x += length) {
          const int64_t first = std::min(x, pixels.columns - length);
          start.push_back(n * apart + frame.At(y * pixels.down, first * pixels.across));
          place.push_back(pixels.Place(n, y, first));
        }
      }
    }
  }

  // Of the same pixel of adjacent samples. The last run overlaps the one before where the samples are no multiple.
  static Runs AcrossSamples(const Frame& frame, const Pixels& pixels, int64_t samples, int64_t length, int64_t apart) {
    Runs runs(apart, pixels.sample_step);
    for (int64_t n = 0; n < samples; n += length) {
      const int64_t first = std::min(n, samples - length);
      for (int64_t y = 0; y < pixels.rows; ++y) {
        for (int64_t x = 0; x < pixels.columns; ++x) {
          runs.start.push_back(first * apart + frame.At(y * pixels.down, x * pixels.across));
          runs.place.push_back(pixels.Place(first, y, x));
        }
      }
    }
    return runs;
  }

  static int64_t InSample(const Pixels& pixels, int64_t length) {
    return pixels.rows * ((pixels.columns + length - 1) / length);
  }

 private:
  Runs(int64_t start_step, int64_t place_step) : start_step(start_step), place_step(place_step) {}
};

template <class Arithmetic, class V, int kGroup, int kRun, int kVectors>
void ProductTile(const Window& window, const float* frames, const float* weights, const Runs& runs, int64_t first,
                 int64_t feature, typename Arithmetic::Number* out) {
  constexpr int kLanes = V::kCount;
  const int64_t filled = window.filled(), step = runs.start_step;
  typename V::Type sum[kGroup][kRun][kVectors] = {};
  const float* weight = weights + feature;
  for (const int64_t start : window.starts) {
    const float* from[kGroup];
#pragma GCC unroll 24
    for (int g = 0; g < kGroup; ++g) from[g] = frames + runs.start[first + g] + start;
    for (int64_t q = 0; q < window.run; ++q, weight += filled) {
      typename V::Type factor[kVectors];
#pragma GCC unroll 24
      for (int v = 0; v < kVectors; ++v) factor[v] = V::Read(weight + v * kLanes);
#pragma GCC unroll 24
      for (int g = 0; g < kGroup; ++g) {
#pragma GCC unroll 24
        for (int p = 0; p < kRun; ++p) {
          const auto value = V::Spread(from[g] + q + p * step);
#pragma GCC unroll 24
          for (int v = 0; v < kVectors; ++v) Arithmetic::Add(sum[g][p][v], factor[v], value);
        }
      }
    }
  }
  const auto write = [&](auto left) {
#pragma GCC unroll 24
    for (int g = 0; g < kGroup; ++g) {
      typename Arithmetic::Number* to = out + runs.place[first + g] + feature;
#pragma GCC unroll 24
      for (int p = 0; p < kRun; ++p) {
#pragma GCC unroll 24
        for (int v = 0; v < kVectors; ++v)
          Arithmetic::Round(to + p * runs.place_step + v * kLanes, V::Widen(sum[g][p][v]), left(v));
      }
    }
  };
  const int64_t left = window.features - feature;
  if (left >= kVectors * kLanes) {
    write([](int) { return kLanes; });
  } else {
    write([&](int v) { return left - v * kLanes; });
  }
}

// Tiles of `kGroup` runs from `first` to `count`, then of fewer.
template <class Arithmetic, class V, int kGroup, int kRun, int kVectors>
void ProductTiles(const Window& window, const float* frames, const float* weights, const Runs& runs, int64_t first,
                  int64_t count, int64_t feature, typename Arithmetic::Number* out) {
  for (; first + kGroup <= count; first += kGroup)
    ProductTile<Arithmetic, V, kGroup, kRun, kVectors>(window, frames, weights, runs, first, feature, out);
  if constexpr (kGroup > 1) {
    ProductTiles<Arithmetic, V, kGroup / 2, kRun, kVectors>(window, frames, weights, runs, first, count, feature, out);
  }
}

template <class Arithmetic, int kRun>
void ProductOfRuns(const Window& window, const float* frames, const float* weights, const Runs& runs, int64_t count,
                   typename Arithmetic::Number* out) {
  constexpr int kGroup = std::min(6, kSums / kRun);
  int64_t feature = 0;
  for (; feature + 2 * kLanes <= window.filled(); feature += 2 * kLanes)
    ProductTiles<Arithmetic, Whole, kGroup / 2, kRun, 2>(window, frames, weights, runs, 0, count, feature, out);
  if (feature < window.filled()) {
    const bool half = window.features - feature <= Half::kCount;
    const auto tiles = half ? ProductTiles<Arithmetic, Half, kGroup, kRun, 1>
                            : ProductTiles<Arithmetic, Whole, kGroup, kRun, 1>;
    tiles(window, frames, weights, runs, 0, count, feature, out);
  }
}

// Length of the runs into which rows of this width are cut.
inline int64_t RunLength(int64_t width) { return kSums >= 24 && width >= 4 ? 4 : width >= 2 ? 2 : 1; }

template <class Arithmetic>
void Product(const Window& window, const float* frames, const float* weights, const Runs& runs, int64_t length,
             int64_t count, typename Arithmetic::Number* out) {
  const auto product = length == 4   ? ProductOfRuns<Arithmetic, 4>
                       : length == 2 ? ProductOfRuns<Arithmetic, 2>
                                     : ProductOfRuns<Arithmetic, 1>;
  product(window, frames, weights, runs, count, out);
}

template <class Arithmetic, class V, int kNumbers, int kVectors>
void MomentTile(const Window& window, const float* frames, const float* cotangent, const int64_t* start, int64_t count,
                int64_t r, int64_t q, int64_t feature, float* weights) {
  constexpr int kLanes = V::kCount;
  const int64_t filled = window.filled();
  typename V::Type sum[kNumbers][kVectors] = {};
  const float* from = frames + window.starts[r] + q;
  cotangent += feature;
  for (int64_t p = 0; p < count; ++p, cotangent += filled) {
    const float* numbers = from + start[p];
    typename V::Type factor[kVectors];
#pragma GCC unroll 24
    for (int v = 0; v < kVectors; ++v) factor[v] = V::Read(cotangent + v * kLanes);
#pragma GCC unroll 24
    for (int n = 0; n < kNumbers; ++n) {
      const auto value = V::Spread(numbers + n);
#pragma GCC unroll 24
      for (int v = 0; v < kVectors; ++v) Arithmetic::Add(sum[n][v], factor[v], value);
    }
  }
  for (int n = 0; n < kNumbers; ++n) {
    float* to = weights + n * filled + feature;
    for (int v = 0; v < kVectors; ++v) Store(to + v * kLanes, Load(to + v * kLanes) + V::Widen(sum[n][v]));
  }
}

template <class Arithmetic, class V, int kNumbers, int kVectors>
void MomentTiles(const Window& window, const float* frames, const float* cotangent, const int64_t* start, int64_t count,
                 int64_t r, int64_t q, int64_t end, int64_t feature, float* weights) {
  for (; q + kNumbers <= end; q += kNumbers, weights += kNumbers * window.filled())
    MomentTile<Arithmetic, V, kNumbers, kVectors>(window, frames, cotangent, start, count, r, q, feature, weights);
  if constexpr (kNumbers > 1) {
    MomentTiles<Arithmetic, V, kNumbers / 2, kVectors>(window, frames, cotangent, start, count, r, q, end, feature,
                                                    weights);
  }
}

// The moments with the words from `begin` to `end` of a window, counted over its runs, added to their weights.
template <class Arithmetic>
void Moment(const Window& window, const float* frames, const float* cotangent, const Runs& pixels, int64_t count,
            int64_t begin, int64_t end, float* weights) {
  for (int64_t first = 0; first < count; first += kMomentPixels) {
    const int64_t here = std::min(kMomentPixels, count - first);
    const float* slope = cotangent + first * window.filled();
    const int64_t* start = pixels.start.data() + first;
    for (int64_t r = begin / window.run; r * window.run < end; ++r) {
      const int64_t q = std::max<int64_t>(0, begin - r * window.run), last = std::min(window.run, end - r * window.run);
      float* row = weights + (r * window.run + q - begin) * window.filled();
      int64_t feature = 0;
      for (; feature + 2 * kLanes <= window.filled(); feature += 2 * kLanes)
        MomentTiles<Arithmetic, Whole, kSums / 2, 2>(window, frames, slope, start, here, r, q, last, feature, row);
      if (feature < window.filled()) {
        const bool half = window.features - feature <= Half::kCount;
        const auto tiles = half ? MomentTiles<Arithmetic, Half, kSums, 1> : MomentTiles<Arithmetic, Whole, kSums, 1>;
        tiles(window, frames, slope, start, here, r, q, last, feature, row);
      }
    }
  }
}

}  // namespace jaxmia
