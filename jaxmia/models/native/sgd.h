// Stochastic gradient descent with Nesterov momentum and weight decay, as PyTorch defines it, in one pass.

#pragma once

#include "vectors.h"

namespace jaxmia {

// What a step does to all weights of one model.
struct Step {
  float rate, decay, momentum;
  bool active;
};

// One step of `count` weights; what is returned may take the place of what is read. Without `active` nothing changes.
inline void SgdStep(const Step& step, int64_t count, const float* weights, const float* memory, const float* slopes,
                    float* new_weights, float* new_memory) {
  if (!step.active) {
    std::memmove(new_weights, weights, count * sizeof(float));
    std::memmove(new_memory, memory, count * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t left = count - i;
    const Vector weight = Float32::Widen(weights + i, left);
    const Vector slope = Float32::Widen(slopes + i, left) + step.decay * weight;
    const Vector kept = step.momentum * Float32::Widen(memory + i, left) + slope;
    Float32::Round(new_memory + i, kept, left);
    Float32::Round(new_weights + i, weight - step.rate * (slope + step.momentum * kept), left);
  }
}

}  // namespace jaxmia
