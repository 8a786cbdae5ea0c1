// Dense layers of many models with what follows them: nothing or a ReLU.
//
// The forward pass and both gradients are products of rows of words with a panel of weights, inputs or cotangents, one or
// two vectors wide:
//   outputs[n, u] = sum over i of inputs[n, i] * weights[i, u]
//   input_slopes[n, i] = sum over u of slopes[n, u] * weights[i, u]
//   weight_slopes[i, u] = sum over n of inputs[n, i] * slopes[n, u]
// where slopes are the cotangents, zero where the ReLU is. A word of bfloat16 holds two numbers that are summed over.
// Panels are packed just before they are used, so that they are in the L1 or L2 cache. Weights and their gradients are
// float32 whatever the arithmetic.

#pragma once

#include <algorithm>

#include "tiles.h"
#include "vectors.h"

namespace jaxmia {

struct DenseShape {
  int64_t models, samples, inputs, units;
  bool relu;
};

// Sums over d of left[row * row_step + d * depth_step] * panel[d], for kRows rows. It is not inlined, so that GCC keeps
// all sums in registers.
template <class Arithmetic, int kRows, int kVectors>
[[gnu::noinline]] void SumTile(const float* left, int64_t row_step, int64_t depth_step, const float* panel,
                               int64_t depth, Vector* sums) {
  constexpr int kRun = std::min(kRows, 4), kGroup = kRows / kRun;
  static_assert(kRows % kRun == 0);
  const float* from[kGroup];
#pragma GCC unroll 24
  for (int g = 0; g < kGroup; ++g) from[g] = left + g * kRun * row_step;
  Vector sum[kGroup][kRun][kVectors] = {};
  for (int64_t d = 0; d < depth; ++d, panel += kVectors * kLanes) {
    Vector factor[kVectors];
#pragma GCC unroll 24
    for (int v = 0; v < kVectors; ++v) factor[v] = Load(panel + v * kLanes);
#pragma GCC unroll 24
    for (int g = 0; g < kGroup; ++g) {
#pragma GCC unroll 24
      for (int p = 0; p < kRun; ++p) {
        const Vector value = Broadcast(from[g] + p * row_step);
#pragma GCC unroll 24
        for (int v = 0; v < kVectors; ++v) Arithmetic::Add(sum[g][p][v], factor[v], value);
      }
      from[g] += depth_step;
    }
  }
#pragma GCC unroll 24
  for (int g = 0; g < kGroup; ++g) {
#pragma GCC unroll 24
    for (int p = 0; p < kRun; ++p) {
#pragma GCC unroll 24
      for (int v = 0; v < kVectors; ++v) *sums++ = sum[g][p][v];
    }
  }
}

// Calls finish(row, vector, sum) for the sums of rows from `row` on: tiles of kRows rows, then smaller ones.
template <class Arithmetic, int kRows, int kVectors, typename Finish>
void SumTiles(const float* left, int64_t row_step, int64_t depth_step, const float* panel, int64_t depth, int64_t row,
              int64_t rows, Finish finish) {
  Vector sums[kRows * kVectors];
  for (; row + kRows <= rows; row += kRows) {
    SumTile<Arithmetic, kRows, kVectors>(left + row * row_step, row_step, depth_step, panel, depth, sums);
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) finish(row + r, v, sums[r * kVectors + v]);
  }
  if constexpr (kRows > 1) {
    constexpr int kFewer = kRows > 4 ? kRows / 8 * 4 : kRows / 2;
    SumTiles<Arithmetic, kFewer, kVectors>(left, row_step, depth_step, panel, depth, row, rows, finish);
  }
}

// Products of all rows with panels that cover `columns`: pack(first column, vectors, panel) fills one, and
// finish(row, column, sum) gets a vector of results.
template <class Arithmetic, typename Pack, typename Finish>
void VectorPanels(const float* left, int64_t row_step, int64_t depth_step, int64_t rows, int64_t depth, int64_t columns,
                  Pack pack, Finish finish) {
  Scratch panel(depth * 2 * kLanes);
  for (int64_t first = 0; first < columns; first += 2 * kLanes) {
    const auto put = [&](int64_t row, int v, Vector sum) { finish(row, first + v * kLanes, sum); };
    if (columns - first > kLanes) {
      pack(first, 2, panel.data());
      SumTiles<Arithmetic, kSums / 8 * 4, 2>(left, row_step, depth_step, panel.data(), depth, 0, rows, put);
    } else {
      pack(first, 1, panel.data());
      SumTiles<Arithmetic, kSums, 1>(left, row_step, depth_step, panel.data(), depth, 0, rows, put);
    }
  }
}

#if defined(JAXMIA_TILES)
// The same products in tiles, whose left factors are `part_step` words apart along the depth. The words of rows beyond the
// depth are finite.
template <typename Pack, typename Finish>
void TilePanels(const float* left, int64_t row_step, int64_t part_step, int64_t rows, Cut depth, int64_t columns,
                Pack pack, Finish finish) {
  const Cut cut(rows);
  const TileSizes sizes(cut.size, depth.size);
  const int64_t panel_words = depth.filled() * kTileRows;
  Scratch panel(2 * panel_words), sums(4 * kTileWords);
  InSteps<2>(0, RoundUp(columns, kTileRows) / kTileRows, [&](int64_t column, auto panels) {
    for (int p = 0; p < panels; ++p) pack((column + p) * kTileRows, 1, panel.data() + p * panel_words);
    InSteps<LeftFactors(panels)>(0, cut.count, [&](int64_t part, auto count) {
      const auto first_row = [&](int l) { return std::min((part + l) * cut.size, rows - cut.size); };
      Each<count * panels>([](auto sum) { TileZero<sum>(); });
      for (int64_t d = 0; d < depth.count; ++d)
        AddProducts<count, panels>([&](int l) { return left + first_row(l) * row_step + d * part_step; }, row_step,
                                   [&](int p) { return panel.data() + p * panel_words + d * depth.size * kTileRows; });
      Each<count * panels>([&](auto sum) { TileStore<sum>(sums.data() + sum * kTileWords, kTileRows); });
      for (int l = 0; l < count; ++l)
        for (int64_t row = 0; row < cut.size; ++row)
          for (int p = 0; p < panels; ++p)
            finish(first_row(l) + row, (column + p) * kTileRows,
                   Load(sums.data() + (l * panels + p) * kTileWords + row * kTileRows));
    });
  });
}
#endif

// Products of rows of adjacent words with panels, in tiles where the processor has them.
template <class Arithmetic, typename Pack, typename Finish>
void Panels(const float* left, int64_t row_step, int64_t rows, int64_t depth, int64_t columns, Pack pack, Finish finish) {
#if defined(JAXMIA_TILES)
  if constexpr (Arithmetic::kNumbers == 2) {
    const Cut parts(depth);
    if (HasTiles() && rows && depth) return TilePanels(left, row_step, parts.size, rows, parts, columns, pack, finish);
  }
#endif
  VectorPanels<Arithmetic>(left, row_step, 1, rows, depth, columns, pack, finish);
}

// Panel of the weights of units from `first` on: words of adjacent inputs.
template <class Arithmetic>
void PackUnits(const DenseShape& shape, const float* weights, int64_t first, int vectors, float* panel) {
  constexpr int kNumbers = Arithmetic::kNumbers;
  for (int64_t i = 0; i < shape.inputs; i += kNumbers) {
    const float* from = weights + i * shape.units + first;
    const float* next = i + kNumbers <= shape.inputs ? from + (kNumbers - 1) * shape.units : nullptr;
    for (int v = 0; v < vectors; ++v, panel += kLanes) {
      const int64_t step = v * kLanes, left = shape.units - first - step;
      Store(panel, Arithmetic::Pair(Float32::Widen(from + step, left), next ? Float32::Widen(next + step, left) : Vector{}));
    }
  }
}

// Panel of the weights of inputs from `first` on: words of adjacent units.
template <class Arithmetic>
void PackInputs(const DenseShape& shape, const float* weights, int64_t first, int vectors, float* panel) {
  const int64_t depth = Words<Arithmetic>(shape.units);
  for (int v = 0; v < vectors; ++v) {
    const int64_t begin = first + v * kLanes, rows = std::min<int64_t>(kLanes, shape.inputs - begin);
    for (int64_t d = 0; d < depth; d += kLanes) {
      const int64_t unit = d * Arithmetic::kNumbers;
      Vector words[kLanes] = {};
      for (int64_t row = 0; row < rows; ++row)
        words[row] = Arithmetic::Narrow(weights + (begin + row) * shape.units + unit, shape.units - unit);
      Transpose(words);
      for (int64_t step = 0; step < std::min<int64_t>(kLanes, depth - d); ++step)
        Store(panel + ((d + step) * vectors + v) * kLanes, words[step]);
    }
  }
}

template <class Arithmetic>
void DenseForward(const DenseShape& shape, const typename Arithmetic::Number* inputs, const float* weights,
                  const float* bias, typename Arithmetic::Number* outputs) {
  const int64_t depth = Words<Arithmetic>(shape.inputs), step = Spaced(depth), units = shape.units;
  Scratch rows(shape.samples * step), shift(RoundUp(units, kLanes));
  for (int64_t m = 0; m < shape.models; ++m, weights += shape.inputs * units) {
    for (int64_t n = 0; n < shape.samples; ++n, inputs += shape.inputs)
      std::memcpy(rows.data() + n * step, inputs, shape.inputs * sizeof(*inputs));
    if (bias) std::memcpy(shift.data(), bias + m * units, units * sizeof(float));
    Panels<Arithmetic>(
        rows.data(), step, shape.samples, depth, units,
        [&](int64_t first, int vectors, float* panel) { PackUnits<Arithmetic>(shape, weights, first, vectors, panel); },
        [&](int64_t row, int64_t unit, Vector sum) {
          sum += Load(shift.data() + unit);
          if (shape.relu) sum = sum < 0.f ? Vector{} : sum;  // NaN stays
          Arithmetic::Round(outputs + row * units + unit, sum, units - unit);
        });
    outputs += shape.samples * units;
  }
}

// Sums over the samples' inputs and the slopes that pack(first unit, vectors, panel) fills in, for finish(input, unit, sum).
// `pairs` has room for the words of the inputs.
template <class Arithmetic, typename Pack, typename Finish>
void WeightSlopes(const DenseShape& shape, const typename Arithmetic::Number* inputs, float* pairs, Pack pack,
                  Finish finish) {
  constexpr int kNumbers = Arithmetic::kNumbers;
  const int64_t depth = Words<Arithmetic>(shape.samples), step = Spaced(shape.inputs);
#if defined(JAXMIA_TILES)
  if constexpr (kNumbers == 2) {
    if (HasTiles() && depth && shape.inputs) {
      const Cut parts(depth);
      for (int64_t n = 0; n < parts.count; ++n)
        FillPairs(inputs + n * 2 * parts.size * shape.inputs, shape.inputs,
                  std::min(2 * parts.size, shape.samples - n * 2 * parts.size), shape.inputs, pairs + n * step * kTileRows);
      return TilePanels(pairs, kTileRows, step * kTileRows, shape.inputs, parts, shape.units, pack, finish);
    }
  }
#endif
  for (int64_t n = 0; n < depth; ++n)
    Interleave<Arithmetic>(inputs + n * kNumbers * shape.inputs, shape.inputs, shape.samples - n * kNumbers, shape.inputs,
                           pairs + n * step);
  VectorPanels<Arithmetic>(pairs, 1, step, shape.inputs, depth, shape.units, pack, finish);
}

// Gradients with respect to inputs, weights and bias; those of inputs and bias only where there is an array for them.
// `outputs` are read for the ReLU only.
template <class Arithmetic>
void DenseBackward(const DenseShape& shape, const typename Arithmetic::Number* inputs, const float* weights,
                   const typename Arithmetic::Number* outputs, const typename Arithmetic::Number* cotangents,
                   typename Arithmetic::Number* input_slopes, float* weight_slopes, float* bias_slopes) {
  using Number = typename Arithmetic::Number;
  constexpr int kNumbers = Arithmetic::kNumbers;
  const int64_t samples = shape.samples, units = shape.units, depth = Words<Arithmetic>(samples);
  const int64_t slope_words = Words<Arithmetic>(units), slope_step = Spaced(slope_words);
  const int64_t input_step = Spaced(shape.inputs);
  Scratch slopes(depth * kNumbers * slope_step), pairs(RoundUp(depth, kTileRows) * input_step);
  Scratch sums(RoundUp(units, kLanes));
  const auto slope = [&](int64_t n) { return reinterpret_cast<Number*>(slopes.data() + n * slope_step); };
  for (int64_t m = 0; m < shape.models; ++m) {
    std::fill(sums.data(), sums.data() + units, 0.f);
    for (int64_t n = 0; n < samples; ++n, outputs += units, cotangents += units) {
      for (int64_t u = 0; u < units; u += kLanes) {
        Vector given = Arithmetic::Widen(cotangents + u, units - u);
        if (shape.relu) given = Arithmetic::Widen(outputs + u, units - u) > 0.f ? given : Vector{};
        Arithmetic::Round(slope(n) + u, given, units - u);
        Store(sums.data() + u, Load(sums.data() + u) + given);
      }
    }
    if (bias_slopes) std::memcpy(bias_slopes + m * units, sums.data(), units * sizeof(float));
    if (input_slopes) {
      Panels<Arithmetic>(
          slopes.data(), slope_step, samples, slope_words, shape.inputs,
          [&](int64_t first, int vectors, float* panel) {
            PackInputs<Arithmetic>(shape, weights, first, vectors, panel);
          },
          [&](int64_t row, int64_t input, Vector sum) {
            Arithmetic::Round(input_slopes + row * shape.inputs + input, sum, shape.inputs - input);
          });
      input_slopes += samples * shape.inputs;
      weights += shape.inputs * units;
    }
    const auto pack = [&](int64_t first, int vectors, float* panel) {
      for (int64_t n = 0; n < depth; ++n)
        Interleave<Arithmetic>(slope(n * kNumbers) + first, slope_step * kNumbers, kNumbers, vectors * kLanes,
                               panel + n * vectors * kLanes);
    };
    const auto finish = [&](int64_t row, int64_t unit, Vector sum) {
      Float32::Round(weight_slopes + row * units + unit, sum, units - unit);
    };
    WeightSlopes<Arithmetic>(shape, inputs, pairs.data(), pack, finish);
    inputs += samples * shape.inputs;
    weight_slopes += shape.inputs * units;
  }
}

}  // namespace jaxmia
