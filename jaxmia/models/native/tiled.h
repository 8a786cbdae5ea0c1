// Convolutions of bfloat16 in tiles, whose left factors have a row for each of 16 pixels or for each of 16 words of a
// kernel, and whose right factors have a column for each feature of a panel of 16.

#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "products.h"
#include "tiles.h"

namespace jaxmia {

#if defined(JAXMIA_TILES)

// Words of the padded images, and of what a kernel gradient reads of them at a time, that fit in a core's L2 cache.
constexpr int64_t kTiledWords = 1 << 17, kBandWords = 1 << 18;
// Pixels of a kernel gradient whose cotangents of two panels fit in the L1 cache.
constexpr int64_t kTiledPixels = 16;

// Cuts `length` into as few equal parts of at most a tile's rows as there can be, the last of which may be shorter.
struct Cut {
  int64_t count, size;

  explicit Cut(int64_t length)
      : count((length + kTileRows - 1) / kTileRows), size((length + count - 1) / count) {}
};

template <typename Work, int... kIndex>
void Each(Work work, std::integer_sequence<int, kIndex...>) {
  (work(std::integral_constant<int, kIndex>()), ...);
}

// Calls work(i) for constants from zero to kCount.
template <int kCount, typename Work>
void Each(Work work) {
  Each(work, std::make_integer_sequence<int, kCount>());
}

// Calls work(first, count) with constant counts: as often as possible kMost, then half of it, and so on.
template <int kMost, typename Work>
void InSteps(int64_t begin, int64_t end, Work work) {
  for (; begin + kMost <= end; begin += kMost) work(begin, std::integral_constant<int, kMost>());
  if constexpr (kMost > 1) InSteps<kMost / 2>(begin, end, work);
}

// Left factors that are multiplied with so many right ones at once: there are four tiles for sums.
constexpr int LeftFactors(int right) { return 4 / right; }

// Adds the products of left and right factors, where left(l) and right(r) are their words, to sums l * kRight + r.
template <int kLeft, int kRight, typename Left, typename Right>
void AddProducts(Left left, int64_t left_step, Right right) {
  Each<kRight>([&](auto r) { TileLoad<6 + r>(right(r), kTileRows); });
  Each<kLeft>([&](auto l) {
    TileLoad<4 + l % 2>(left(l), left_step);
    Each<kRight>([&](auto r) { MultiplyAdd<l * kRight + r, 4 + l % 2, 6 + r>(); });
  });
}

// Products like those of VectorProduct, in tiles. A panel has words [tap or row of taps, word, 16 features].
class TileProduct {
 public:
  using Number = BFloat16::Number;

  TileProduct(const Frame& frame, const Window& window, const Pixels& pixels, int64_t batch)
      : batch(batch),
        apart(Spaced(frame.size())),
        size(Panels(window) * PanelWords(window)),
        frame_(frame),
        window_(window),
        pixels_(pixels),
        depth_(window.run) {}

  const int64_t batch, apart, size;

  static int64_t BatchOf(int64_t words, const Pixels& pixels, int64_t samples) {
    int64_t batch = std::max<int64_t>(1, kTiledWords / words);
    if (pixels.columns % kTileRows != 0 && words <= 2 * kTiledWords / kTileRows)
      batch = RoundUp(std::max(batch - kTileRows + 1, kTileRows + 0l), kTileRows);
    return std::min(batch, samples);
  }

  void Fill(const Taps& taps, const Number* kernel, float* weights) const {
    const int64_t words = Words<BFloat16>(taps.channels);
    for (int64_t panel = 0; panel < Panels(window_); ++panel) {
      const int64_t feature = panel * kTileRows, features = std::min<int64_t>(kTileRows, window_.features - feature);
      for (size_t tap = 0; tap < taps.starts.size(); ++tap) {
        const int64_t run = tap * words / window_.run, word = tap * words % window_.run;
        Pack<BFloat16>(kernel + taps.starts[tap] + feature * taps.across, taps.channels, taps.down, features,
                       taps.across, kTileRows,
                       weights + panel * PanelWords(window_) + (run * depth_.count * depth_.size + word) * kTileRows);
      }
    }
  }

  void Multiply(const float* frames, const float* weights, int64_t samples, Number* out) const {
    const Cut columns(pixels_.columns), across(samples);
    const bool in_rows = columns.count * samples <= across.count * pixels_.columns;
    const Cut rows = in_rows ? columns : across;
    const Runs runs = in_rows ? Runs(frame_, pixels_, samples, rows.size, apart)
                              : Runs::AcrossSamples(frame_, pixels_, samples, rows.size, apart);
    const TileSizes sizes(rows.size, depth_.size);
    InSteps<2>(0, Panels(window_), [&](int64_t panel, auto panels) {
      InSteps<LeftFactors(panels)>(0, runs.start.size(), [&](int64_t run, auto count) {
        MultiplyRuns<count, panels>(frames, weights + panel * PanelWords(window_), runs, rows.size, run,
                                    panel * kTileRows, out);
      });
    });
  }

 private:
  static int64_t Panels(const Window& window) { return RoundUp(window.features, kTileRows) / kTileRows; }

  static int64_t PanelWords(const Window& window) {
    const Cut depth(window.run);
    return window.starts.size() * depth.count * depth.size * kTileRows;
  }

  template <int kRuns, int kPanels>
  void MultiplyRuns(const float* frames, const float* panel, const Runs& runs, int64_t length, int64_t first,
                    int64_t feature, Number* out) const {
    Each<kRuns * kPanels>([](auto sum) { TileZero<sum>(); });
    for (const int64_t start : window_.starts) {
      for (int64_t part = 0; part < depth_.count; ++part, panel += depth_.size * kTileRows) {
        const float* from = frames + start + part * depth_.size;
        AddProducts<kRuns, kPanels>([&](int run) { return from + runs.start[first + run]; }, runs.start_step,
                                    [&](int p) { return panel + p * PanelWords(window_); });
      }
    }
    constexpr int64_t kWide = kPanels * kTileRows;
    alignas(64) float sums[kRuns * kTileRows * kWide];
    Each<kRuns * kPanels>([&](auto sum) {
      TileStore<sum>(sums + sum / kPanels * kTileRows * kWide + sum % kPanels * kTileRows, kWide);
    });
    const int64_t left = window_.features - feature;
    for (int run = 0; run < kRuns; ++run) {
      Number* to = out + runs.place[first + run] + feature;
      const float* sum = sums + run * kTileRows * kWide;
      for (int64_t row = 0; row < length; ++row, to += runs.place_step, sum += kWide) {
        if (kPanels == 2 && left >= kWide) {
          Store(reinterpret_cast<float*>(to), BFloat16::Narrow(sum, kWide));
        } else {
          for (int64_t f = 0; f < kWide; f += kTileRows) BFloat16::Round(to + f, Load(sum + f), left - f);
        }
      }
    }
  }

  const Frame frame_;
  const Window window_;
  const Pixels pixels_;
  const Cut depth_;  // of the runs of the window
};

// Numbers [pair of samples, `count`], transposed: words [number, 16 pairs], the same number of two samples in each.
// Pairs beyond the samples are zero.
inline void FillPairs(const uint16_t* first, int64_t step, int64_t samples, int64_t count, float* words) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t left = count - i;
    Vector rows[kLanes] = {};
    for (int64_t n = 0; n < samples; n += 2) {
      const Vector low = BFloat16::Widen(first + n * step + i, left);
      rows[n / 2] = BFloat16::Join(low, n + 1 < samples ? BFloat16::Widen(first + (n + 1) * step + i, left) : Vector{});
    }
    Transpose(rows);
    for (int64_t row = 0; row < std::min<int64_t>(kLanes, left); ++row) Store(words + (i + row) * kTileRows, rows[row]);
  }
}

// Words of a band of rows of padded images, [row, column, number, 16 pairs of samples], whose first row is at -frame.top.
inline void FillBand(const Shape& shape, const Frame& frame, const uint16_t* images, int64_t samples, float* words) {
  const int64_t row_words = frame.columns * frame.channels * kTileRows;
  for (int64_t y = 0; y < frame.rows; ++y)
    if (y < frame.top || y >= frame.top + frame.height) std::fill_n(words + y * row_words, row_words, 0.f);
  frame.EachRow([&](int64_t number, int64_t word, int64_t pixels) {
    const int64_t run = frame.channels == frame.all_channels ? pixels : 1;
    for (int64_t x = 0; x < pixels; x += run)
      FillPairs(images + number + x * frame.all_channels, shape.input(), samples, run * frame.channels,
                words + (word + x * frame.channels) * kTileRows);
  });
}

// Words of cotangents, [pixel, panel, pair of samples, 16 features].
inline void FillSlopes(const Shape& shape, const uint16_t* cotangents, int64_t samples, int64_t pixels, int64_t depth,
                       float* words) {
  const int64_t features = shape.features_of_group();
  for (int64_t p = 0; p < pixels; ++p, cotangents += shape.features) {
    for (int64_t f = 0; f < features; f += kTileRows, words += kTileWords) {
      const int64_t count = std::min<int64_t>(kTileRows, features - f);
      for (int64_t b = 0; b < depth; ++b) {
        if (2 * b < samples) {
          Interleave<BFloat16>(cotangents + 2 * b * shape.output() + f, shape.output(), samples - 2 * b, count,
                               words + b * kTileRows);
        } else {
          Store(words + b * kTileRows, Vector{});
        }
      }
    }
  }
}

// Adds the products of numbers, at numbers(l) + 16 start[pixel], with cotangents to the sums at sums(l) of one panel or two.
template <int kLeft, int kPanels, typename Numbers, typename Sums>
void AddMoments(Numbers numbers, const int64_t* start, int64_t pixels, const float* cotangent, int64_t panels, Sums sums) {
  const auto sum_of = [&](int sum) { return sums(sum / kPanels) + sum % kPanels * kTileWords; };
  Each<kLeft * kPanels>([&](auto sum) { TileLoad<sum>(sum_of(sum), kTileRows); });
  for (int64_t p = 0; p < pixels; ++p, cotangent += panels * kTileWords) {
    AddProducts<kLeft, kPanels>([&](int l) { return numbers(l) + start[p] * kTileRows; }, kTileRows,
                                [&](int r) { return cotangent + r * kTileWords; });
  }
  Each<kLeft * kPanels>([&](auto sum) { TileStore<sum>(sum_of(sum), kTileRows); });
}

// Each thread computes some tiles of words of the kernels, adding up the samples in the same order as one thread alone:
// up to 32 at a time, and of these a band of rows whose words fit in the L2 cache.
inline void TiledKernelGradient(const Threads& all, const Shape& shape, const Frame& frame, const Window& window,
                                const uint16_t* inputs, const uint16_t* cotangents, uint16_t* kernels) {
  const int64_t samples = shape.samples, channels = shape.channels_of_group(), features = shape.features_of_group();
  const Cut pairs(Words<BFloat16>(samples)), run(window.run);
  const int64_t panels = RoundUp(features, kTileRows) / kTileRows, tiles = window.starts.size() * run.count;
  const int64_t seen_row = frame.columns * channels * kTileRows, slope_row = shape.columns * panels * kTileWords;
  const int64_t halo = frame.rows - (shape.rows - 1) * shape.down;
  const int64_t fit = (kBandWords - halo * seen_row) / (shape.down * seen_row + slope_row);
  const int64_t band = std::clamp<int64_t>(fit, 1, shape.rows);
  const Frame all_rows{frame.height, frame.width, frame.all_channels, channels, (band - 1) * shape.down + halo,
                       frame.columns, 0, frame.left, channels};
  const std::vector<int64_t> start = Runs(all_rows, {band, shape.columns, shape.down, shape.across}, 1, 1, 0).start;
  Threads threads = all.For(shape.products() / 8);
  const int64_t slices = threads.count(), parts = shape.models * slices;
  threads.Share(parts, [&](auto next) {
    Frame seen = all_rows;
    Scratch numbers(seen.size() * kTileRows + kTileWords), slopes(band * slope_row);
    const TileSizes sizes(run.size, pairs.size);
    for (int64_t part; (part = next()) < parts;) {
      const int64_t model = part / slices, slice = part % slices, all_tiles = shape.groups * tiles;
      const int64_t begin = slice * all_tiles / slices, end = (slice + 1) * all_tiles / slices;
      Scratch sums((end - begin) * panels * kTileWords);
      for (int64_t sample = 0; sample < samples; sample += 2 * pairs.size) {
        const int64_t here = std::min(2 * pairs.size, samples - sample);
        const uint16_t* images = inputs + (model * samples + sample) * shape.input();
        const uint16_t* slope = cotangents + (model * samples + sample) * shape.output();
        for (int64_t y = 0; y < shape.rows; y += band) {
          const int64_t rows = std::min(band, shape.rows - y);
          for (int64_t from = begin, to; from < end; from = to) {
            const int64_t group = from / tiles;
            to = std::min(end, (group + 1) * tiles);
            seen.top = frame.top - y * shape.down;
            FillBand(shape, seen, images + group * channels, here, numbers.data());
            FillSlopes(shape, slope + y * shape.columns * shape.features + group * features, here,
                       rows * shape.columns, pairs.size, slopes.data());
            for (int64_t p = 0; p < rows * shape.columns; p += kTiledPixels) {
              const int64_t pixels = std::min(kTiledPixels, rows * shape.columns - p);
              InSteps<2>(0, panels, [&](int64_t panel, auto wide) {
                InSteps<LeftFactors(wide)>(from, to, [&](int64_t tile, auto count) {
                  const float* words[count];
                  for (int l = 0; l < count; ++l) {
                    const int64_t of = (tile + l) % tiles;
                    words[l] = numbers.data() + (window.starts[of / run.count] + of % run.count * run.size) * kTileRows;
                  }
                  AddMoments<count, wide>(
                      [&](int l) { return words[l]; }, start.data() + p, pixels,
                      slopes.data() + (p * panels + panel) * kTileWords, panels,
                      [&](int l) { return sums.data() + ((tile + l - begin) * panels + panel) * kTileWords; });
                });
              });
            }
          }
        }
      }
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t group = tile / tiles, of = tile % tiles, first = of % run.count * run.size;
        for (int64_t i = 0; i < std::min(run.size, window.run - first); ++i) {
          const int64_t row = of / run.count * window.run + first + i;
          uint16_t* out = kernels + model * shape.kernel() + row * shape.features + group * features;
          for (int64_t f = 0; f < features; f += kTileRows)
            BFloat16::Round(out + f, Load(sums.data() + ((tile - begin) * panels * kTileRows + f + i) * kTileRows),
                            features - f);
        }
      }
    }
  });
}

#endif

template <class Arithmetic, typename... Known>
void Products(const Known&... known) {
#if defined(JAXMIA_TILES)
  if constexpr (Arithmetic::kNumbers == 2)
    if (HasTiles()) return ProductsBy<Arithmetic, TileProduct>(known...);
#endif
  ProductsBy<Arithmetic, VectorProduct<Arithmetic>>(known...);
}

}  // namespace jaxmia
