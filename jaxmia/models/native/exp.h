// The exponential function of vectors.

#pragma once

#include <cmath>

#include "vectors.h"

namespace jaxmia {

typedef int32_t Integers __attribute__((vector_size(kLanes * sizeof(int32_t)), may_alias));

// Powers of e of numbers that are not above 88, to two units in the last place; zero where they would be denormal.
inline Vector Exp(Vector value) {
  // x = n * log(2) + r with |r| <= log(2) / 2. Adding 1.5 * 2^23 rounds to the integer n, which the last bits then hold.
  constexpr float kRound = 12582912, kHigh = 0.693359375f, kLow = -2.12194440e-4f, kSmallest = -87.3f;
  const Vector shifted = value * 1.44269504f + kRound, count = shifted - kRound;
  const Vector rest = (value - count * kHigh) - count * kLow;
  Vector power = 1.f / 5040 - Vector{};
  constexpr float kTerms[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1, 1};
#pragma GCC unroll 7
  for (float term : kTerms) power = power * rest + term;
  const Vector result = (Vector)((Integers)power + ((Integers)shifted << 23));
  return value < kSmallest ? Vector{} : value != value ? value : result;
}

}  // namespace jaxmia
