// Chooses the reduction lanes of an engine and the format and group size of each weight. Called by
// engine_builder, before any number is read.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/builder/tensor_binding.h"
#include "runtime/model/engine.pb.h"
#include "runtime/model/kernel_limits.h"

namespace phalanx::builder {

inline constexpr int64_t kMaxReductionLanes = 8;
inline constexpr int64_t kMinGroupSize = model::kGroupSizeStep;
inline constexpr int64_t kMaxGroupSize = 4096;

struct QuantizationRequest {
  engine::WeightFormat weights = engine::BF16;
  int64_t group_size = 128;                          ///< a power of two, kMin..kMaxGroupSize
  std::optional<engine::WeightFormat> head_weights;  ///< unset: as weights, but w8 for w4
};

struct LaneChoice {
  int64_t lanes = 1;
  std::string reason;  ///< why not more; empty when kMaxReductionLanes
};

/// The largest power of two up to kMaxReductionLanes that divides the heads and every tensor that
/// is cut, and leaves each row-cut reduction a group of at least kMinGroupSize (quantized) or whole
/// pairs (bf16).
LaneChoice choose_reduction_lanes(const engine::ModelConfig& model,
                                  const std::vector<BoundTensor>& tensors,
                                  engine::WeightFormat format);

/// The largest power of two <= requested that divides `cols`, or 0 when none reaches kMinGroupSize.
int64_t largest_group_size(int64_t cols, int64_t requested);

/// Sets format and group_size of every tensor; vectors stay f32. Notes say where a group had to be
/// smaller than requested. Errors: kFailedPrecondition naming a tensor whose columns admit no
/// group, and what to do.
Result<std::vector<std::string>> plan_formats(const QuantizationRequest& request, int64_t lanes,
                                              std::vector<BoundTensor>* tensors);

}  // namespace phalanx::builder
