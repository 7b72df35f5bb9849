// The sum of softmax weights over a row: 16 running sums, then a binary tree over them.
#include "runtime/executor/exp_weights.h"

#include <cstddef>

namespace phalanx {

double exp_weight_sum(std::span<const float> logits, float max, float temperature) {
  constexpr size_t kLanes = 16;
  double sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    float weights[kLanes];
    for (size_t lane = 0; lane < kLanes; ++lane)
      weights[lane] = exp_weight((logits[i + lane] - max) / temperature);
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += static_cast<double>(weights[lane]);
  }
  for (size_t lane = 0; i < logits.size(); ++i, ++lane)
    sums[lane] += static_cast<double>(exp_weight((logits[i] - max) / temperature));
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  return sums[0];
}

}  // namespace phalanx
