// The limits as checks with one wording.
#include "runtime/model/kernel_limits.h"

#include <bit>

namespace phalanx::model {

namespace {

bool is_multiple(int64_t value, int64_t step, int64_t high) {
  return value >= step && value <= high && value % step == 0;
}

std::string multiple_text(int64_t step, int64_t high) {
  return ", must be a multiple of " + std::to_string(step) + " from " + std::to_string(step) +
         " to " + std::to_string(high);
}

}  // namespace

Status check_head_dim(const std::string& field, int64_t head_dim) {
  if (is_multiple(head_dim, kHeadDimStep, kMaxHeadDim)) return {};
  return unsupported(field + " is " + std::to_string(head_dim) +
                     multiple_text(kHeadDimStep, kMaxHeadDim));
}

Status check_reduction_lanes(const std::string& field, int64_t lanes, int64_t num_attention_heads) {
  if (lanes >= 1 && lanes <= kMaxReductionLanes &&
      std::has_single_bit(static_cast<uint64_t>(lanes)) && num_attention_heads % lanes == 0)
    return {};
  return invalid_argument(
      field + " is " + std::to_string(lanes) + ", must be a power of two from 1 to " +
      std::to_string(kMaxReductionLanes) + " that divides num_attention_heads " +
      std::to_string(num_attention_heads));
}

Status check_group_size(const std::string& field, int64_t group_size, int64_t lane_cols) {
  if (is_multiple(group_size, kGroupSizeStep, kMaxGroupSize) && lane_cols % group_size == 0)
    return {};
  return invalid_argument(field + " is " + std::to_string(group_size) +
                          multiple_text(kGroupSizeStep, kMaxGroupSize) + " that divides " +
                          std::to_string(lane_cols));
}

}  // namespace phalanx::model
