// Shapes that every backend's kernels run: an engine beyond them is refused when it is built and
// when it is opened, not when a rank first uses it. Called by the checkpoint's config reader and by
// verify_manifest; tests/runtime/executor/kernel_limits_test.cpp holds them against the kernels.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/base/result.h"

namespace phalanx::model {

inline constexpr int64_t kHeadDimStep = 8;
inline constexpr int64_t kMaxHeadDim = 256;
inline constexpr int64_t kMaxReductionLanes = 64;
inline constexpr int64_t kGroupSizeStep = 8;
inline constexpr int64_t kMaxGroupSize = 65536;

/// head_dim: a multiple of kHeadDimStep up to kMaxHeadDim. `field` opens the message ("config.json:
/// head_dim"). Errors: kUnsupported with field, value and what is allowed.
Status check_head_dim(const std::string& field, int64_t head_dim);

/// reduction_lanes: a power of two up to kMaxReductionLanes that divides the heads. Errors:
/// kInvalidArgument as above.
Status check_reduction_lanes(const std::string& field, int64_t lanes, int64_t num_attention_heads);

/// Group size of a quantized matrix whose lanes have lane_cols columns: a multiple of
/// kGroupSizeStep up to kMaxGroupSize that divides them. Errors: kInvalidArgument as above.
Status check_group_size(const std::string& field, int64_t group_size, int64_t lane_cols);

}  // namespace phalanx::model
