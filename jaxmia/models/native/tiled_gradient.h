// Kernel gradients in tiles: left factors have a row for each of up to 16 numbers of a padded image, right ones a column for
// each of a panel of 16 features of the cotangents, and both have the words of up to 16 pairs of samples at a pixel.

#pragma once

#include <algorithm>
#include <vector>

#include "products.h"
#include "tiles.h"

namespace jaxmia {

#if defined(JAXMIA_TILES)

// Words that are read at a time and fit in a core's L2 cache, words of sums that do, and words that are read at a time where
// sums do not.
constexpr int64_t kBandWords = 1 << 18, kSumsWords = 1 << 17, kBandsWords = 1 << 20;
// Pixels whose cotangents of two panels fit in the L1 cache, words of cotangents that do while they are filled in, and the
// most channels that are summed at once.
constexpr int64_t kTiledPixels = 16, kSlopeWords = 1 << 12, kTiledChannels = 128;

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
void AddMoments(Numbers numbers, const int64_t* start, int64_t pixels, const float* cotangent, int64_t panels, Sums sums) {
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
    const int64_t fit = sums > kSumsWords ? kBandsWords / (halo * row + rows * each) : 1;
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

}  // namespace jaxmia
