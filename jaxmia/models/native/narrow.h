// The three linear parts of convolutions in groups that are narrower than a vector, one channel (depthwise) above all,
// channels last, the model axis first in every array.
//
// Vectors hold adjacent results of a row: of several groups, and of several pixels where these have few results. Each
// result is a sum over the taps, which are at fixed distances in a padded image whose columns are sorted by their
// remainder modulo the stride, and over the words of its group there, which are permuted to the lanes of its results.

#pragma once

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <vector>

#include "shape.h"
#include "threads.h"
#include "vectors.h"

namespace jaxmia {

// Most results of groups for which permuting takes less time than idle lanes would; and where there is a single tap, so
// that copying the channels of each group would take most of the time.
constexpr int64_t kNarrow = 4, kNarrowOfOneTap = kLanes / 2;

// Vectors of results that are computed at once, and words whose gradients are.
constexpr int kResults = 8, kSlopes = 9;

// Numbers that a thread takes at a time, and the most shares of a model's samples that are summed apart.
constexpr int64_t kNarrowNumbers = 1 << 14, kNarrowShares = 16;

// Reads the numbers of an arithmetic as its words, or, to add up in another, widens them.
template <class Arithmetic, class Sum>
using Reader = std::conditional_t<std::is_same_v<Arithmetic, Sum>, Float32, Arithmetic>;

// The word that is read from such numbers.
template <class Arithmetic, class Sum>
float WordOf(const typename Arithmetic::Number* numbers) {
  uint32_t bits;
  if constexpr (std::is_same_v<Arithmetic, Sum>) {
    std::memcpy(&bits, numbers, sizeof(bits));
  } else {
    bits = static_cast<uint32_t>(*numbers) << 16;
  }
  float word;
  std::memcpy(&word, &bits, sizeof(word));
  return word;
}

// Groups of a convolution or of its transpose, with `results` that are sums over taps and `words` of an image each.
struct Groups {
  int64_t count, taps, words, results;

  int64_t all_words() const { return count * words; }
  int64_t all_results() const { return count * results; }

  // Most words from the first that a vector of results needs to the last.
  int64_t reach() const {
    const int64_t latest = results - std::gcd<int64_t>(results, kLanes);  // first result of a vector, in its group
    return ((latest + kLanes - 1) / results + 1) * words;
  }

  // Number of vectors from which those words are permuted: none if they are in the lanes of their results.
  int vectors() const { return results == 1 && words == 1 ? 0 : Ceiling(reach(), kLanes); }
};

// Whether groups are so narrow that vectors hold the results of several.
inline bool IsNarrow(const Groups& groups) {
  const int64_t most = groups.taps > 1 ? kNarrow : kNarrowOfOneTap;
  return groups.count > 1 && groups.results <= most && groups.vectors() <= (kPermutes ? 2 : 0);
}

// Division of rows of pixels into periods: whole vectors, whose lanes have the same results in every period.
struct Period {
  Groups groups;
  int64_t filled, pixels;  // `filled` results from pixel to pixel
  // For each vector of results, the first word of the group of the first, and of those of all lanes from there.
  std::vector<int64_t> words;
  std::vector<Lanes> lanes;

  // Pixels that are adjacent, or that have vectors of their own if those are fewer or if results are `apart`.
  Period(const Groups& groups, int64_t columns, bool apart) : groups(groups), filled(groups.all_results()) {
    const int64_t count = filled, padded = RoundUp(count, kLanes);
    pixels = std::lcm<int64_t>(count, kLanes) / count;
    if (apart || RoundUp(columns, pixels) * count > columns * padded) filled = padded, pixels = 1;
    for (int64_t first = 0; first < size(); first += kLanes) {
      words.push_back(first / groups.results * groups.words);
      lanes.emplace_back();
      for (int lane = 0; lane < kLanes; ++lane)
        lanes.back()[lane] = (first + lane) / groups.results * groups.words - words.back();
    }
  }

  int64_t size() const { return pixels * filled; }
};

// The words from which those in the lanes of a vector of results are permuted: of one or two vectors, or, for none, those
// that are in their lanes.
template <int kVectors>
struct Near {
  Vector vectors[std::max(kVectors, 1)];

  void Read(const float* from) {
#pragma GCC unroll 2
    for (int v = 0; v < std::max(kVectors, 1); ++v) vectors[v] = Load(from + v * kLanes);
  }

  Vector At(Lanes lanes) const {
    if constexpr (kVectors == 0) return vectors[0];
    if constexpr (kVectors == 1) return Permute(vectors[0], lanes);
    if constexpr (kVectors == 2) return PermuteBoth(vectors[0], vectors[1], lanes);
  }
};

// An image with zeros around it; `columns` are those of each remainder modulo `across`, and pixels have `filled` words.
struct Grid {
  int64_t height, width, channels, top, left, rows, columns, across, filled;

  int64_t row() const { return Spaced(across * columns * filled); }
  int64_t At(int64_t y, int64_t x) const { return y * row() + (x % across * columns + x / across) * filled; }

  // Writes all but the zeros.
  template <class Reader>
  void Fill(const typename Reader::Number* image, float* words) const {
    const int64_t first = std::max<int64_t>(0, -left), last = std::min(width, across * columns - left);
    const bool adjacent = across == 1 && filled == channels;
    const int64_t run = adjacent ? last - first : 1, count = run * channels;
    for (int64_t y = std::max<int64_t>(0, -top); y < std::min(height, rows - top); ++y) {
      for (int64_t x = first; x < last; x += run) {
        const typename Reader::Number* from = image + (y * width + x) * channels;
        float* to = words + At(y + top, x + left);
        for (int64_t i = 0; i < count; i += kLanes)
          Float32::Round(to + i, Reader::Widen(from + i, count - i), count - i);
      }
    }
  }
};

// Periods of results that are sums over the same words: where each begins in a grid and among the results, how many of
// its numbers are results, and for each tap where the words of a group and their weights are, from where a result and a
// kernel begin.
struct Pass {
  std::vector<int64_t> starts, results, counts, offsets, weights;

  Pass(const Grid& grid, const Period& period, int64_t rows, int64_t columns, int64_t down, int64_t first,
       int64_t row_step, int64_t pixel_step) {
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < columns; x += period.pixels) {
        starts.push_back(y * down * grid.row() + x * grid.filled);
        results.push_back(first + y * row_step + x * pixel_step);
        counts.push_back(std::min(period.pixels, columns - x) * period.groups.all_results());
      }
    }
  }

  void AddTap(int64_t offset, int64_t weight) {
    offsets.push_back(offset);
    weights.push_back(weight);
  }

  int64_t size() const { return starts.size(); }
  int64_t taps() const { return offsets.size(); }
};

// Sums of which the results of all samples consist: passes over a grid, and from where a pass says where the weights of
// each result are, of successive numbers `step` apart.
struct Sums {
  Grid grid;
  Period period;
  std::vector<Pass> passes;
  std::vector<int64_t> weights;
  int64_t step, image, output;

  int64_t words() const { return grid.rows * grid.row() + period.words.back() + 2 * kLanes; }
};

// Weights of a pass as vectors [vector of a period, tap, word].
template <class Arithmetic, class Sum>
void PackWeights(const Sums& sums, const Pass& pass, const typename Arithmetic::Number* kernel, float* packed) {
  const Period& period = sums.period;
  const int64_t words = period.groups.words, all = pass.taps() * words;
  std::vector<float> row(period.filled);
  for (int64_t w = 0; w < all; ++w) {
    const auto* from = kernel + pass.weights[w / words] + w % words * Sum::kNumbers * sums.step;
    for (size_t r = 0; r < sums.weights.size(); ++r) {
      typename Arithmetic::Number numbers[Sum::kNumbers];
      for (int n = 0; n < Sum::kNumbers; ++n) numbers[n] = from[sums.weights[r] + n * sums.step];
      row[r] = WordOf<Arithmetic, Sum>(numbers);
    }
    for (int64_t i = 0; i < period.size(); ++i)
      packed[(i / kLanes * all + w) * kLanes + i % kLanes] = row[i % period.filled];
  }
}

template <class Arithmetic, class Sum, int kVectors>
void Correlate(const Period& period, const Pass& pass, const float* grid, const float* weights,
               typename Arithmetic::Number* results) {
  const int64_t words = kVectors ? period.groups.words : 1, all = pass.taps() * words, last = pass.size() - 1;
  for (int64_t v = 0; v < period.size(); v += kLanes, weights += all * kLanes) {
    const Lanes lanes = period.lanes[v / kLanes];
    const float* begin = grid + period.words[v / kLanes];
    for (int64_t first = 0; first <= last; first += kResults) {
      const float* from[kResults];
      for (int k = 0; k < kResults; ++k) from[k] = begin + pass.starts[std::min(first + k, last)];
      Vector sums[kResults] = {};
      const float* weight = weights;
      for (const int64_t offset : pass.offsets) {
        Near<kVectors> values[kResults];
#pragma GCC unroll 8
        for (int k = 0; k < kResults; ++k) values[k].Read(from[k] + offset);
        for (int64_t w = 0; w < words; ++w, weight += kLanes) {
          const Lanes own = lanes + static_cast<int32_t>(w);
          const Vector factor = Load(weight);
#pragma GCC unroll 8
          for (int k = 0; k < kResults; ++k) Sum::Add(sums[k], values[k].At(own), factor);
        }
      }
#pragma GCC unroll 8
      for (int k = 0; k < kResults; ++k) {
        const int64_t at = std::min(first + k, last), count = pass.counts[at] - v;
        if (count > 0) Arithmetic::Round(results + pass.results[at] + v, sums[k], count);
      }
    }
  }
}

template <class Arithmetic, class Sum>
void Correlations(Threads threads, const Shape& shape, const Sums& sums, const typename Arithmetic::Number* images,
                  const typename Arithmetic::Number* kernels, typename Arithmetic::Number* results) {
  using Reads = Reader<Arithmetic, Sum>;
  const int64_t samples = shape.samples;
  const int64_t batch = std::clamp<int64_t>(kNarrowNumbers / (sums.image + sums.output), 1, samples);
  const int64_t batches = Ceiling(samples, batch), parts = shape.models * batches;
  const Period& period = sums.period;
  const int vectors = period.groups.vectors();
  const auto correlate = vectors == 0   ? Correlate<Arithmetic, Sum, 0>
                         : vectors == 1 ? Correlate<Arithmetic, Sum, 1>
                                        : Correlate<Arithmetic, Sum, 2>;
  threads.Share(parts, [&](auto next) {
    Scratch words(sums.words()), weights(shape.taps() * period.groups.words * period.size());
    const auto each_pass = [&](auto work) {
      float* own = weights.data();
      for (const Pass& pass : sums.passes) {
        work(pass, own);
        own += pass.taps() * period.groups.words * period.size();
      }
    };
    for (int64_t part, packed = -1; (part = next()) < parts;) {
      const int64_t model = part / batches, first = part % batches * batch, last = std::min(samples, first + batch);
      if (model != packed) {
        packed = model;
        each_pass([&](const Pass& pass, float* own) {
          PackWeights<Arithmetic, Sum>(sums, pass, kernels + model * shape.kernel(), own);
        });
      }
      for (int64_t n = model * samples + first; n < model * samples + last; ++n) {
        sums.grid.Fill<Reads>(reinterpret_cast<const typename Reads::Number*>(images + n * sums.image), words.data());
        each_pass([&](const Pass& pass, const float* own) {
          correlate(period, pass, words.data(), own, results + n * sums.output);
        });
      }
    }
  });
}

// Words from pixel to pixel in a grid for a period: as adjacent as its results, or with whole vectors of their own.
inline int64_t FilledWords(const Period& period) {
  const int64_t words = period.groups.all_words();
  return period.filled == period.groups.all_results() ? words : RoundUp(words, kLanes);
}

inline Grid InputGrid(const Shape& shape, const Period& period) {
  return {shape.height,
          shape.width,
          period.groups.all_words(),
          shape.top,
          shape.left,
          (shape.rows - 1) * shape.down + (shape.tall - 1) * shape.gap_down + 1,
          shape.columns + (shape.wide - 1) * shape.gap_across / shape.across,
          shape.across,
          FilledWords(period)};
}

// Sums over all taps.
inline Pass InputPass(const Shape& shape, const Grid& grid, const Period& period, int64_t row_step,
                      int64_t pixel_step) {
  Pass pass(grid, period, shape.rows, shape.columns, shape.down, 0, row_step, pixel_step);
  for (int64_t i = 0; i < shape.tall; ++i)
    for (int64_t j = 0; j < shape.wide; ++j)
      pass.AddTap(grid.At(i * shape.gap_down, j * shape.gap_across),
                  (i * shape.wide + j) * shape.channels_of_group() * shape.features);
  return pass;
}

template <class Arithmetic, class Sum>
void NarrowForward(const Threads& threads, const Shape& shape, const typename Arithmetic::Number* inputs,
                   const typename Arithmetic::Number* kernels, typename Arithmetic::Number* outputs) {
  const int64_t words = shape.channels_of_group() / Sum::kNumbers;
  const Period period({shape.groups, shape.taps(), words, shape.features_of_group()}, shape.columns, false);
  const Grid grid = InputGrid(shape, period);
  const Pass pass = InputPass(shape, grid, period, shape.columns * shape.features, shape.features);
  Correlations<Arithmetic, Sum>(
      threads.For(shape.products()), shape,
      {grid, period, {pass}, Multiples(shape.features, 1), shape.features, shape.input(), shape.output()}, inputs,
      kernels, outputs);
}

template <class Arithmetic, class Sum>
void NarrowInputGradient(const Threads& threads, const Shape& shape, const typename Arithmetic::Number* cotangents,
                         const typename Arithmetic::Number* kernels, typename Arithmetic::Number* inputs) {
  const int64_t channels = shape.channels_of_group(), features = shape.features_of_group();
  const int64_t down = shape.down, across = shape.across;
  const int64_t above = Ceiling((shape.tall - 1) * shape.gap_down - shape.top, down);
  const int64_t before = Ceiling((shape.wide - 1) * shape.gap_across - shape.left, across);
  const Period period({shape.groups, shape.taps(), features / Sum::kNumbers, channels}, shape.width, across > 1);
  const Grid grid{shape.rows,
                  shape.columns,
                  period.groups.all_words(),
                  above,
                  before,
                  above + 1 - Ceiling(1 - shape.top - shape.height, down),
                  before + 1 - Ceiling(1 - shape.left - shape.width, across),
                  1,
                  FilledWords(period)};
  Sums sums{grid, period, {}, {}, 1, shape.output(), shape.input()};
  for (int64_t c = 0; c < shape.channels; ++c)
    sums.weights.push_back(c % channels * shape.features + c / channels * features);
  for (int64_t y = 0; y < std::min(down, shape.height); ++y) {
    for (int64_t x = 0; x < std::min(across, shape.width); ++x) {
      const Reach vertical(y, down, shape.top, shape.tall, shape.gap_down, shape.height);
      const Reach horizontal(x, across, shape.left, shape.wide, shape.gap_across, shape.width);
      Pass pass(grid, period, vertical.places, horizontal.places, 1, (y * shape.width + x) * shape.channels,
                down * shape.width * shape.channels, across * shape.channels);
      for (size_t i = 0; i < vertical.taps.size(); ++i)
        for (size_t j = 0; j < horizontal.taps.size(); ++j)
          pass.AddTap(grid.At(vertical.outputs[i] + above, horizontal.outputs[j] + before),
                      (vertical.taps[i] * shape.wide + horizontal.taps[j]) * channels * shape.features);
      sums.passes.push_back(pass);
    }
  }
  Correlations<Arithmetic, Sum>(threads.For(shape.products()), shape, sums, cotangents, kernels, inputs);
}

// Adds products with the slopes, summed over a pass, for `kCount` words of its taps and one vector of results, at which the
// grid and the slopes begin.
template <int kVectors, int kCount>
void AddSlopes(const Pass& pass, int64_t first, int64_t words, Lanes lanes, const float* grid, const float* slopes,
               float* sums) {
  const float* from[kCount];
  Lanes own[kCount];
  if (kVectors == 0) words = 1;
  for (int w = 0; w < kCount; ++w) {
    from[w] = grid + pass.offsets[(first + w) / words];
    own[w] = lanes + static_cast<int32_t>((first + w) % words);
  }
  Vector sum[kCount] = {};
  for (int64_t at = 0; at < pass.size(); ++at) {
    const int64_t start = pass.starts[at];
    const Vector slope = Load(slopes + pass.results[at]);
#pragma GCC unroll 9
    for (int w = 0; w < kCount; ++w) {
      Near<kVectors> near;
      near.Read(from[w] + start);
      Float32::Add(sum[w], near.At(own[w]), slope);
    }
  }
  for (int w = 0; w < kCount; ++w) Store(sums + w * kLanes, Load(sums + w * kLanes) + sum[w]);
}

// The same for up to kCount words.
template <int kVectors, int kCount = kSlopes>
void AddSlopesOf(int64_t count, const Pass& pass, int64_t first, int64_t words, Lanes lanes, const float* grid,
                 const float* slopes, float* sums) {
  if constexpr (kCount > 1) {
    if (count < kCount)
      return AddSlopesOf<kVectors, kCount - 1>(count, pass, first, words, lanes, grid, slopes, sums);
  }
  AddSlopes<kVectors, kCount>(pass, first, words, lanes, grid, slopes, sums);
}

// Shares of the samples are summed apart, whatever the number of threads, and then added in their order.
template <class Arithmetic>
void NarrowKernelGradient(const Threads& most, const Shape& shape, const typename Arithmetic::Number* inputs,
                          const typename Arithmetic::Number* cotangents, typename Arithmetic::Number* kernels) {
  const int64_t samples = shape.samples;
  const int64_t words = shape.channels_of_group();
  const Period period({shape.groups, shape.taps(), words, shape.features_of_group()}, shape.columns, false);
  const Grid grid = InputGrid(shape, period);
  const Grid slopes{shape.rows,    shape.columns, shape.features, 0, 0, shape.rows,
                    RoundUp(shape.columns, period.pixels), 1,     period.filled};
  const Pass pass = InputPass(shape, grid, period, slopes.row(), period.filled);
  const Sums sums{grid, period};
  const int vectors = period.groups.vectors();
  const auto add = vectors == 0 ? AddSlopesOf<0> : vectors == 1 ? AddSlopesOf<1> : AddSlopesOf<2>;
  const int64_t shares = std::min(samples, kNarrowShares), parts = shape.models * shares;
  const int64_t all = pass.taps() * words, size = all * period.size();
  const int64_t at_once = Ceiling(all, Ceiling(all, kSlopes));
  std::vector<float> sum_of(parts * size);  // vectors [model, share, vector of a period, tap, word]
  Threads threads = most.For(shape.products());
  threads.Share(parts, [&](auto next) {
    Scratch image(sums.words()), slope(slopes.rows * slopes.row() + period.size());
    for (int64_t part; (part = next()) < parts;) {
      const int64_t model = part / shares, share = part % shares;
      for (int64_t n = share * samples / shares; n < (share + 1) * samples / shares; ++n) {
        grid.Fill<Arithmetic>(inputs + (model * samples + n) * shape.input(), image.data());
        slopes.Fill<Arithmetic>(cotangents + (model * samples + n) * shape.output(), slope.data());
        float* sum = sum_of.data() + part * size;
        for (int64_t v = 0; v < period.size(); v += kLanes) {
          const Lanes lanes = period.lanes[v / kLanes];
          const float* begin = image.data() + period.words[v / kLanes];
          for (int64_t word = 0, count; word < all; word += count, sum += count * kLanes) {
            count = std::min(at_once, all - word);
            add(count, pass, word, words, lanes, begin, slope.data() + v, sum);
          }
        }
      }
    }
  });
  threads.Share(shape.models, [&](auto next) {
    std::vector<float> row(RoundUp(period.filled, kLanes));
    for (int64_t model; (model = next()) < shape.models;) {
      float* total = sum_of.data() + model * shares * size;
      for (int64_t share = 1; share < shares; ++share)
        for (int64_t i = 0; i < size; ++i) total[i] += total[share * size + i];
      for (int64_t word = 0; word < all; ++word) {
        std::fill(row.begin(), row.end(), 0.f);
        for (int64_t i = 0; i < period.size(); ++i)
          row[i % period.filled] += total[(i / kLanes * all + word) * kLanes + i % kLanes];
        typename Arithmetic::Number* to = kernels + model * shape.kernel() + pass.weights[word / words] +
                                         word % words * shape.features;
        for (int64_t f = 0; f < shape.features; f += kLanes)
          Arithmetic::Round(to + f, Load(&row[f]), shape.features - f);
      }
    }
  });
}

}  // namespace jaxmia
