// Products of windows in tiles: left factors have a row for each of up to 16 pixels, right ones a column for each of a panel
// of 16 features.

#pragma once

#include <algorithm>
#include <vector>

#include "products.h"
#include "tiles.h"

namespace jaxmia {

#if defined(JAXMIA_TILES)

// Words of padded images that a core works on at a time, besides the weights, in its L2 cache: where tiles have adjacent
// pixels, and where they have the same pixel of several samples.
constexpr int64_t kRowsWords = 1 << 15, kAcrossWords = 1 << 17;

// Windows and pixels whose features fill tiles: two adjacent pixels of 16 features are one of 32, with zeros among the
// weights of a window that is wider by a pixel, where that takes no more tiles.
struct JoinedPixels {
  Window window;
  Pixels pixels;
  int64_t count = 1;

  JoinedPixels(const Frame& frame, const Window& one, const Pixels& of_one) : window(one), pixels(of_one) {
    const bool adjacent = pixels.across == 1 && pixels.pixel_step == kTileRows && pixels.columns % 2 == 0;
    if (window.features != kTileRows || !adjacent || Cut(window.run + frame.words).count > Cut(window.run).count) return;
    count = 2;
    window.run += frame.words;
    window.features *= 2;
    pixels.columns /= 2;
    pixels.across *= 2;
    pixels.pixel_step *= 2;
  }
};

// Products like those of VectorProduct, in tiles. A panel has words [tap or row of taps, word, 16 features].
class TileProduct {
 public:
  using Number = BFloat16::Number;

  TileProduct(const Frame& frame, const Window& window, const Pixels& pixels, int64_t batch)
      : TileProduct(frame, JoinedPixels(frame, window, pixels), batch) {}

  const int64_t batch, apart, size;

  static int64_t BatchOf(int64_t words, const Pixels& pixels, int64_t samples) {
    if (InRows(pixels, samples)) return std::clamp<int64_t>(kRowsWords / words, 1, samples);
    const int64_t most = std::max<int64_t>(1, kAcrossWords / words), tile = kTileRows * words;
    return std::min(tile <= 2 * kAcrossWords ? std::max<int64_t>(kTileRows, most / kTileRows * kTileRows) : most, samples);
  }

  void Fill(const Taps& taps, const Number* kernel, float* weights) const {
    const int64_t words = frame_.words, run = window_.run - (joined_ - 1) * words, features = window_.features / joined_;
    for (int64_t pixel = 0; pixel < joined_; ++pixel) {
      for (int64_t feature = 0; feature < features; feature += kTileRows) {
        for (size_t tap = 0; tap < taps.starts.size(); ++tap) {
          const int64_t row = tap * words / run, word = tap * words % run + pixel * words;
          Pack<BFloat16>(kernel + taps.starts[tap] + feature * taps.across, taps.channels, taps.down,
                         std::min<int64_t>(kTileRows, features - feature), taps.across, kTileRows,
                         weights + (pixel + feature / kTileRows) * panel_ +
                             (row * depth_.filled() + word) * kTileRows);
        }
      }
    }
  }

  void Multiply(const float* frames, const float* weights, int64_t samples, Number* out) const {
    const bool in_rows = InRows(pixels_, samples);
    const Cut rows(in_rows ? pixels_.columns : samples);
    const Runs runs = in_rows ? Runs(frame_, pixels_, samples, rows.size, apart)
                              : Runs::AcrossSamples(frame_, pixels_, samples, rows.size, apart);
    const TileSizes sizes(rows.size, depth_.size);
    InSteps<2>(0, size / panel_, [&](int64_t panel, auto panels) {
      InSteps<LeftFactors(panels)>(0, runs.start.size(), [&](int64_t run, auto count) {
        MultiplyRuns<count, panels>(frames, weights + panel * panel_, runs, rows.size, run, panel * kTileRows, out);
      });
    });
  }

 private:
  // Whether tiles have adjacent pixels, rather than the same of several samples, which read more pages and lines: where the
  // rows of pixels leave at most a fifth more idle.
  static bool InRows(const Pixels& pixels, int64_t samples) {
    return 5 * Cut(pixels.columns).count * samples <= 6 * Cut(samples).count * pixels.columns;
  }

  TileProduct(const Frame& frame, const JoinedPixels& joined, int64_t batch)
      : batch(batch),
        apart(Spaced(frame.size() + kLanes - 1)),  // zeros behind each, which the last window's parts may exceed
        size(joined.window.filled() * joined.window.starts.size() * Cut(joined.window.run).filled()),
        frame_(frame),
        window_(joined.window),
        pixels_(joined.pixels),
        joined_(joined.count),
        depth_(joined.window.run),
        panel_(size / joined.window.filled() * kTileRows) {}

  template <int kRuns, int kPanels>
  void MultiplyRuns(const float* frames, const float* panel, const Runs& runs, int64_t length, int64_t first,
                    int64_t feature, Number* out) const {
    Each<kRuns * kPanels>([](auto sum) { TileZero<sum>(); });
    for (const int64_t start : window_.starts) {
      for (int64_t part = 0; part < depth_.count; ++part, panel += depth_.size * kTileRows) {
        const float* from = frames + start + part * depth_.size;
        AddProducts<kRuns, kPanels>([&](int run) { return from + runs.start[first + run]; }, runs.start_step,
                                    [&](int p) { return panel + p * panel_; });
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
  const int64_t joined_;
  const Cut depth_;       // of the runs of the window
  const int64_t panel_;  // words of a panel
};

#endif

// The products in tiles where the processor has them.
template <class Arithmetic, typename... Known>
void Products(const Known&... known) {
#if defined(JAXMIA_TILES)
  if constexpr (Arithmetic::kNumbers == 2)
    if (HasTiles()) return ProductsBy<Arithmetic, TileProduct>(known...);
#endif
  ProductsBy<Arithmetic, VectorProduct<Arithmetic>>(known...);
}

}  // namespace jaxmia
