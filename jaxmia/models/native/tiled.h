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
// Pixels of a kernel gradient whose cotangents of two panels fit in the L1 cache; words of its sums that fit in the L2
// cache, else the words that are summed at once; and the most channels whose words are in a cache meanwhile.
constexpr int64_t kTiledPixels = 16, kSlopeWords = 1 << 12, kSumsWords = 1 << 17, kBatchOfBandsWords = 1 << 20, kTiledChannels = 64;

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

// Words of a number of two samples each, which are zero where there is no second: one or two vectors of them.
template <int kVectors>
void JoinPairs(const uint16_t* first, const uint16_t* second, int64_t count, Vector (&words)[kVectors]) {
  static const uint16_t zeros[2 * kLanes] = {};
  if (!second) second = zeros;
  if constexpr (kVectors == 2) {
    const __m512i low = _mm512_loadu_si512(first), high = _mm512_loadu_si512(second);
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i begin = _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(32)), 16));
    words[0] = (Vector)_mm512_permutex2var_epi16(low, begin, high);
    words[1] = (Vector)_mm512_permutex2var_epi16(low, _mm512_add_epi16(begin, _mm512_set1_epi16(kLanes)), high);
  } else {
    words[0] = BFloat16::Join(BFloat16::Widen(first, count), BFloat16::Widen(second, count));
  }
}

// Calls work(i, count, vectors) for parts of `length` numbers: two vectors of them, of constant number, then one.
template <typename Work>
void InVectors(int64_t length, Work work) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= length; i += 2 * kLanes) work(i, 2 * kLanes, std::integral_constant<int, 2>());
  for (; i < length; i += kLanes) work(i, std::min<int64_t>(kLanes, length - i), std::integral_constant<int, 1>());
}

// Numbers [sample, `length`], transposed: words [number, 16 pairs of samples], those beyond the samples zero.
[[gnu::noinline]] inline void FillPairs(const uint16_t* first, int64_t step, int64_t samples, int64_t length, float* words) {
  InVectors(length, [&](int64_t i, int64_t count, auto vectors) {
    Vector rows[vectors][kLanes] = {};
    for (int64_t n = 0; n < samples; n += 2) {
      Vector pair[vectors];
      const uint16_t* from = first + n * step + i;
      JoinPairs<vectors>(from, n + 1 < samples ? from + step : nullptr, count, pair);
      for (int v = 0; v < vectors; ++v) rows[v][n / 2] = pair[v];
    }
    for (int v = 0; v < vectors; ++v) {
      Transpose(rows[v]);
      for (int64_t row = 0; row < std::min<int64_t>(kLanes, count - v * kLanes); ++row)
        Store(words + (i + v * kLanes + row) * kTileRows, rows[v][row]);
    }
  });
}

// Fills words of a band of rows of padded images, [row, column, number, 16 pairs of samples].
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

// Fills words of cotangents, [pixel, panel, pair of samples, 16 features], with zeros for pairs beyond the samples. So few
// pixels at a time that their words stay in the L1 cache.
inline void FillSlopes(const Shape& shape, const uint16_t* cotangents, int64_t samples, int64_t filled, int64_t pixels,
                       float* words) {
  const int64_t features = shape.features_of_group(), panels = RoundUp(features, kTileRows) / kTileRows;
  const int64_t pixel_words = panels * kTileWords, at_once = std::max<int64_t>(1, kSlopeWords / pixel_words);
  const int64_t adjacent = features == shape.features && features % kTileRows == 0 ? at_once : 1;
  for (int64_t p = 0; p < pixels; p += at_once) {
    const int64_t end = std::min(p + at_once, pixels);
    for (int64_t n = 0; n < filled; n += 2) {
      for (int64_t pixel = p; pixel < end; pixel += adjacent) {
        const int64_t count = std::min(adjacent, end - pixel);
        const uint16_t* from = cotangents + n * shape.output() + pixel * shape.features;
        float* to = words + pixel * pixel_words + n / 2 * kTileRows;
        if (n < samples) {
          InVectors(count * features, [&](int64_t f, int64_t left, auto vectors) {
            Vector pair[vectors];
            JoinPairs<vectors>(from + f, n + 1 < samples ? from + shape.output() + f : nullptr, left, pair);
            for (int v = 0; v < vectors; ++v) Store(to + f * kTileRows + v * kTileWords, pair[v]);
          });
        } else {
          for (int64_t panel = 0; panel < count * panels; ++panel) Store(to + panel * kTileWords, Vector{});
        }
      }
    }
  }
}

// Adds the products of numbers, at numbers(l) + 16 start[pixel], with cotangents to the sums at sums(l) of one panel or two.
template <int kLeft, int kPanels, typename Numbers, typename Sums>
[[gnu::noinline]] void AddMoments(Numbers numbers, const int64_t* start, int64_t pixels, const float* cotangent, int64_t panels, Sums sums) {
  const auto sum_of = [&](int sum) { return sums(sum / kPanels) + sum % kPanels * kTileWords; };
  Each<kLeft * kPanels>([&](auto sum) { TileLoad<sum>(sum_of(sum), kTileRows); });
  for (int64_t p = 0; p < pixels; ++p, cotangent += panels * kTileWords) {
    AddProducts<kLeft, kPanels>([&](int l) { return numbers(l) + start[p] * kTileRows; }, kTileRows,
                                [&](int r) { return cotangent + r * kTileWords; });
  }
  Each<kLeft * kPanels>([&](auto sum) { TileStore<sum>(sum_of(sum), kTileRows); });
}

// What is summed at once in a kernel gradient of `channels` of a group: a band of rows of up to 32 samples, or all rows of
// several times as many, where the sums are so large that reading and writing them would take most of the time.
struct Bands {
  Cut pairs;
  int64_t panels, rows, count;
  Frame frame;

  Bands(const Shape& shape, int64_t channels)
      : pairs(Words<BFloat16>(shape.samples)),
        panels(RoundUp(shape.features_of_group(), kTileRows) / kTileRows),
        frame(InputFrame(shape, channels)) {
    frame.channels = channels;
    const int64_t halo = frame.rows - (shape.rows - 1) * shape.down, row = frame.At(1, 0) * kTileRows;
    const int64_t each = shape.down * row + shape.columns * panels * kTileWords;
    rows = std::clamp<int64_t>((kBandWords - halo * row) / each, 1, shape.rows);
    const int64_t sums = shape.taps() * channels * panels * kTileRows;
    const int64_t fit = sums > kSumsWords ? kBatchOfBandsWords / (halo * row + rows * each) : 1;
    count = rows == shape.rows ? std::clamp<int64_t>(fit, 1, pairs.count) : 1;
    frame.rows = (rows - 1) * shape.down + halo;
  }

  int64_t samples() const { return 2 * pairs.size; }
};

// Adds the products of the words of padded images with cotangents to sums [tile, panel, 16 numbers, 16 features].
inline void AddBands(const Bands& bands, const Window& window, const float* numbers, const std::vector<int64_t>& start,
                     int64_t pixels, const float* slopes, float* sums) {
  const Cut run(window.run);
  const int64_t panels = bands.panels, at_once = bands.count > 1 ? pixels : kTiledPixels;
  for (int64_t p = 0; p < pixels; p += at_once) {
    InSteps<2>(0, panels, [&](int64_t panel, auto wide) {
      InSteps<LeftFactors(wide)>(0, window.starts.size() * run.count, [&](int64_t tile, auto count) {
        const float* words[count];
        for (int l = 0; l < count; ++l)
          words[l] = numbers + (window.starts[(tile + l) / run.count] + (tile + l) % run.count * run.size) * kTileRows;
        AddMoments<count, wide>([&](int l) { return words[l]; }, start.data() + p, std::min(at_once, pixels - p),
                                slopes + (p * panels + panel) * kTileWords, panels,
                                [&](int l) { return sums + ((tile + l) * panels + panel) * kTileWords; });
      });
    });
  }
}

// The kernel gradient. Each thread computes some channels, adding up the samples in the same order as one thread alone.
inline void TiledKernelGradient(const Threads& all, const Shape& shape, const uint16_t* inputs,
                                const uint16_t* cotangents, uint16_t* kernels) {
  const int64_t channels = shape.channels_of_group(), features = shape.features_of_group();
  Threads threads = all.For(shape.products() / 8);
  const int64_t slices = (threads.count() + shape.models * shape.groups - 1) / (shape.models * shape.groups);
  const int64_t most = std::min(channels, std::min(kTiledChannels, RoundUp((channels + slices - 1) / slices, kTileRows)));
  const int64_t blocks = (channels + most - 1) / most, parts = shape.models * shape.groups * blocks;
  threads.Share(parts, [&](auto next) {
    for (int64_t part; (part = next()) < parts;) {
      const int64_t model = part / blocks / shape.groups, group = part / blocks % shape.groups;
      const int64_t channel = part % blocks * most, count = std::min(most, channels - channel);
      const Bands bands(shape, count);
      const Window window = AllTaps(shape, bands.frame);
      const Cut run(window.run);
      const int64_t size = bands.frame.size() * kTileRows, area = bands.rows * shape.columns;
      const int64_t slope_size = area * bands.panels * kTileWords;
      const Pixels pixels{bands.rows, shape.columns, shape.down, shape.across};
      const auto start = Runs(bands.frame, pixels, bands.count, 1, bands.frame.size()).start;
      Scratch numbers(bands.count * size + kTileWords), slopes(bands.count * slope_size);
      Scratch sums(window.starts.size() * run.count * bands.panels * kTileWords);
      const TileSizes sizes(run.size, bands.pairs.size);
      for (int64_t sample = 0; sample < shape.samples;) {
        const int64_t first = sample;
        for (int64_t y = 0; y < shape.rows; y += bands.rows) {
          const int64_t rows = std::min(bands.rows, shape.rows - y);
          Frame frame = bands.frame;
          frame.top -= y * shape.down;
          sample = first;
          int64_t filled = 0;
          for (; filled < bands.count && sample < shape.samples; ++filled, sample += bands.samples()) {
            const int64_t from = model * shape.samples + sample, here = std::min(bands.samples(), shape.samples - sample);
            FillBand(shape, frame, inputs + from * shape.input() + group * channels + channel, here,
                     numbers.data() + filled * size);
            FillSlopes(shape, cotangents + from * shape.output() + y * shape.columns * shape.features + group * features,
                       here, bands.samples(), rows * shape.columns, slopes.data() + filled * slope_size);
          }
          AddBands(bands, window, numbers.data(), start, filled * rows * shape.columns, slopes.data(), sums.data());
        }
      }
      for (size_t word = 0; word < window.starts.size() * window.run; ++word) {
        const int64_t row = word / window.run, i = word % window.run, tap = word / count;
        const int64_t tile = row * run.count + i / run.size;
        const float* sum = sums.data() + (tile * bands.panels * kTileRows + i % run.size) * kTileRows;
        uint16_t* to = kernels + model * shape.kernel() + (tap * channels + channel + word % count) * shape.features +
                       group * features;
        for (int64_t f = 0; f < features; f += kTileRows) BFloat16::Round(to + f, Load(sum + f * kTileRows), features - f);
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
