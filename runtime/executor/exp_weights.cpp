// Eight running sums, so that the compiler vectorizes the weights and their conversion to units.
#include "runtime/executor/exp_weights.h"

#include <cstddef>

namespace phalanx {

using kernels::bits_of;
using kernels::kUnitRounder;

uint64_t exp_weight_sum(std::span<const float> logits, float max, float temperature) {
  constexpr size_t kLanes = 8;
  uint64_t sums[kLanes] = {};
  const size_t num_whole = logits.size() / kLanes * kLanes;
  for (size_t i = 0; i < num_whole; i += kLanes) {
    float weights[kLanes];
    for (size_t lane = 0; lane < kLanes; ++lane)
      weights[lane] = kernels::exp_weight_down_to(
          kernels::kLowestScaled, kernels::scaled_logit(logits[i + lane], max, temperature));
    for (size_t lane = 0; lane < kLanes; ++lane)
      sums[lane] += bits_of(static_cast<double>(weights[lane]) + kUnitRounder);
  }
  // Each summand was kUnitRounder too much; unsigned sums wrap and come back.
  uint64_t sum = 0U - num_whole * bits_of(kUnitRounder);
  for (const uint64_t lane_sum : sums) sum += lane_sum;
  for (size_t i = num_whole; i < logits.size(); ++i)
    sum += kernels::unit_weight(kernels::scaled_logit(logits[i], max, temperature));
  return sum;
}

}  // namespace phalanx
