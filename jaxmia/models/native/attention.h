// Scaled dot-product attention: of each head of a sample, outputs = softmax(queries * keys' + bias) * values.
//
// Queries are computed in panels of one or two vectors: a lane is a query, so that the softmax over the keys needs no sums
// across lanes, and all products are sums of rows times a panel, as in dense layers. The gradients compute the shares of
// the softmax again, since reading them from memory would take longer.

#pragma once

#include <algorithm>
#include <limits>

#include "dense.h"
#include "exp.h"

namespace jaxmia {

// `channels` are of queries and keys, `units` of values. A bias or factor is shared by the samples or heads of which it
// has one only.
struct AttentionShape {
  int64_t models, samples, heads, queries, keys, channels, units;
  float scale;

  int64_t groups() const { return models * samples * heads; }
};

// Numbers `[model, sample, head, key, query]` that are added to scores or multiplied with shares; data may be null.
struct PerScore {
  const float* data;
  int64_t samples, heads;

  const float* Of(const AttentionShape& shape, int64_t group) const {
    if (!data) return nullptr;
    const int64_t head = group % shape.heads, row = group / shape.heads;
    const int64_t sample = row % shape.samples, model = row / shape.samples;
    return data + ((model * samples + sample % samples) * heads + head % heads) * shape.keys * shape.queries;
  }
};

// Sums of rows times a panel of one or two vectors, as `SumTiles`.
template <typename Finish>
void Multiply(const float* left, int64_t row_step, int64_t depth_step, int64_t rows, int64_t depth, const float* panel,
              int64_t vectors, Finish finish) {
  if (vectors == 2) {
    SumTiles<Float32, kSums / 8 * 4, 2>(left, row_step, depth_step, panel, depth, 0, rows, finish);
  } else {
    SumTiles<Float32, kSums, 1>(left, row_step, depth_step, panel, depth, 0, rows, finish);
  }
}

// Turns rows of `columns` numbers into `columns` rows of `vectors` vectors, with zeros behind the numbers of a row.
inline void ToPanel(const float* from, int64_t rows, int64_t columns, int64_t vectors, float factor, float* panel) {
  for (int64_t v = 0; v < vectors; ++v) {
    const int64_t here = std::min<int64_t>(kLanes, rows - v * kLanes);
    for (int64_t first = 0; first < columns; first += kLanes) {
      Vector square[kLanes] = {};
      for (int64_t row = 0; row < here; ++row)
        square[row] = factor * Float32::Widen(from + (v * kLanes + row) * columns + first, columns - first);
      Transpose(square);
      for (int64_t c = 0; c < std::min<int64_t>(kLanes, columns - first); ++c)
        Store(panel + ((first + c) * vectors + v) * kLanes, square[c]);
    }
  }
}

// The reverse of `ToPanel`.
inline void FromPanel(const float* panel, int64_t rows, int64_t columns, int64_t vectors, float factor, float* to) {
  for (int64_t v = 0; v < vectors; ++v) {
    const int64_t here = std::min<int64_t>(kLanes, rows - v * kLanes);
    for (int64_t first = 0; first < columns; first += kLanes) {
      Vector square[kLanes] = {};
      for (int64_t c = 0; c < std::min<int64_t>(kLanes, columns - first); ++c)
        square[c] = factor * Load(panel + ((first + c) * vectors + v) * kLanes);
      Transpose(square);
      for (int64_t row = 0; row < here; ++row)
        Float32::Round(to + (v * kLanes + row) * columns + first, square[row], columns - first);
    }
  }
}

// Shares `[key, query]` of the keys for a panel of scaled queries: zero where a query may attend to no key.
inline void Shares(const AttentionShape& shape, const float* queries, const float* keys, const float* bias,
                   int64_t here, int64_t vectors, float* shares) {
  const int64_t step = vectors * kLanes;
  Vector peak[2];
  std::fill(peak, peak + 2, std::numeric_limits<float>::lowest() - Vector{});
  Multiply(keys, shape.channels, 1, shape.keys, shape.channels, queries, vectors, [&](int64_t key, int v, Vector sum) {
    if (bias) sum += Float32::Widen(bias + key * shape.queries + v * kLanes, here - v * kLanes);
    Store(shares + key * step + v * kLanes, sum);
    peak[v] = sum > peak[v] ? sum : peak[v];
  });
  for (int64_t v = 0; v < vectors; ++v) {
    Vector total = {};
    for (int64_t key = 0; key < shape.keys; ++key) {
      float* at = shares + key * step + v * kLanes;
      const Vector share = Exp(Load(at) - peak[v]);
      total += share;
      Store(at, share);
    }
    const Vector factor = total == 0.f ? Vector{} : 1.f / total;
    for (int64_t key = 0; key < shape.keys; ++key) {
      float* at = shares + key * step + v * kLanes;
      Store(at, Load(at) * factor);
    }
  }
}

// Calls work(first query, number of queries, vectors) for each panel of queries.
template <typename Work>
void QueryPanels(const AttentionShape& shape, Work work) {
  for (int64_t first = 0; first < shape.queries; first += 2 * kLanes) {
    const int64_t here = std::min<int64_t>(2 * kLanes, shape.queries - first);
    work(first, here, here > kLanes ? 2 : 1);
  }
}

// Multiplies shares, or their gradients, with the factors of a panel, if there are any.
inline void Scale(const AttentionShape& shape, const float* factors, int64_t here, int64_t vectors, float* shares) {
  if (!factors) return;
  for (int64_t key = 0; key < shape.keys; ++key, factors += shape.queries)
    for (int64_t v = 0; v < vectors; ++v, shares += kLanes)
      Store(shares, Load(shares) * Float32::Widen(factors + v * kLanes, here - v * kLanes));
}

// Outputs `[model, sample, head, query, unit]`.
inline void AttentionForward(const AttentionShape& shape, const float* queries, const float* keys, const float* values,
                             const PerScore& biases, const PerScore& factors, float* outputs) {
  constexpr int64_t kWidth = 2 * kLanes;
  Scratch turned(shape.channels * kWidth), shares(shape.keys * kWidth), products(shape.units * kWidth);
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const float *bias = biases.Of(shape, g), *factor = factors.Of(shape, g);
    QueryPanels(shape, [&](int64_t first, int64_t here, int64_t vectors) {
      ToPanel(queries + first * shape.channels, here, shape.channels, vectors, shape.scale, turned.data());
      Shares(shape, turned.data(), keys, bias ? bias + first : nullptr, here, vectors, shares.data());
      Scale(shape, factor ? factor + first : nullptr, here, vectors, shares.data());
      Multiply(values, 1, shape.units, shape.units, shape.keys, shares.data(), vectors,
               [&](int64_t unit, int v, Vector sum) { Store(products.data() + (unit * vectors + v) * kLanes, sum); });
      FromPanel(products.data(), here, shape.units, vectors, 1, outputs + first * shape.units);
    });
    queries += shape.queries * shape.channels;
    keys += shape.keys * shape.channels;
    values += shape.keys * shape.units;
    outputs += shape.queries * shape.units;
  }
}

// Adds the sums over a panel's queries of numbers `[key, query]` times rows `[query, column]` to rows `[key, column]`.
inline void AddOverQueries(const AttentionShape& shape, const float* numbers, int64_t here, int64_t vectors,
                           const float* rows, int64_t columns, float* panel, float* sums) {
  for (int64_t first = 0; first < columns; first += 2 * kLanes) {
    const int64_t width = columns - first > kLanes ? 2 : 1;
    for (int64_t q = 0; q < here; ++q)
      for (int64_t v = 0; v < width; ++v) {
        const int64_t column = first + v * kLanes;
        Store(panel + (q * width + v) * kLanes, Float32::Widen(rows + q * columns + column, columns - column));
      }
    Multiply(numbers, vectors * kLanes, 1, shape.keys, here, panel, width, [&](int64_t key, int v, Vector sum) {
      const int64_t column = first + v * kLanes;
      float* at = sums + key * columns + column;
      Float32::Round(at, Float32::Widen(at, columns - column) + sum, columns - column);
    });
  }
}

// Gradients with respect to queries, keys and values.
inline void AttentionBackward(const AttentionShape& shape, const float* queries, const float* keys, const float* values,
                              const PerScore& biases, const PerScore& factors, const float* cotangents,
                              float* query_slopes, float* key_slopes, float* value_slopes) {
  constexpr int64_t kWidth = 2 * kLanes;
  const int64_t most = std::max(shape.channels, shape.units);
  Scratch turned(most * kWidth), shares(shape.keys * kWidth), slopes(shape.keys * kWidth), panel(kWidth * kWidth);
  std::fill(key_slopes, key_slopes + shape.groups() * shape.keys * shape.channels, 0.f);
  std::fill(value_slopes, value_slopes + shape.groups() * shape.keys * shape.units, 0.f);
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const float *bias = biases.Of(shape, g), *factor = factors.Of(shape, g);
    QueryPanels(shape, [&](int64_t first, int64_t here, int64_t vectors) {
      const float *own = queries + first * shape.channels, *given = cotangents + first * shape.units;
      const float* kept = factor ? factor + first : nullptr;
      ToPanel(own, here, shape.channels, vectors, shape.scale, turned.data());
      Shares(shape, turned.data(), keys, bias ? bias + first : nullptr, here, vectors, shares.data());
      ToPanel(given, here, shape.units, vectors, 1, turned.data());
      Multiply(values, shape.units, 1, shape.keys, shape.units, turned.data(), vectors,
               [&](int64_t key, int v, Vector sum) { Store(slopes.data() + (key * vectors + v) * kLanes, sum); });
      Scale(shape, kept, here, vectors, slopes.data());
      // Of the scores: share * (slope of the share - sum of shares times slopes), times the scale.
      for (int64_t v = 0; v < vectors; ++v) {
        Vector total = {};
        const int64_t end = shape.keys * vectors * kLanes, step = vectors * kLanes;
        for (int64_t at = v * kLanes; at < end; at += step)
          total += Load(shares.data() + at) * Load(slopes.data() + at);
        for (int64_t at = v * kLanes; at < end; at += step)
          Store(slopes.data() + at,
                shape.scale * Load(shares.data() + at) * (Load(slopes.data() + at) - total));
      }
      Scale(shape, kept, here, vectors, shares.data());
      AddOverQueries(shape, shares.data(), here, vectors, given, shape.units, panel.data(), value_slopes);
      AddOverQueries(shape, slopes.data(), here, vectors, own, shape.channels, panel.data(), key_slopes);
      Multiply(keys, 1, shape.channels, shape.channels, shape.keys, slopes.data(), vectors,
               [&](int64_t channel, int v, Vector sum) { Store(turned.data() + (channel * vectors + v) * kLanes, sum); });
      FromPanel(turned.data(), here, shape.channels, vectors, 1, query_slopes + first * shape.channels);
    });
    queries += shape.queries * shape.channels;
    query_slopes += shape.queries * shape.channels;
    keys += shape.keys * shape.channels;
    key_slopes += shape.keys * shape.channels;
    values += shape.keys * shape.units;
    value_slopes += shape.keys * shape.units;
    cotangents += shape.queries * shape.units;
  }
}

}  // namespace jaxmia
