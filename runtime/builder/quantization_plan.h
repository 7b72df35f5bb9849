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

/// Blocks of weights that share a scale where the builder quantizes to fp8. e4m3 rounds relative to
/// each weight, so that a scale of fewer gains nothing, and one of a square multiplies a whole tile
/// of a product; published block-scaled checkpoints have the same.
inline constexpr int64_t kFp8BlockRows = 128;
inline constexpr int64_t kFp8BlockCols = 128;

struct QuantizationRequest {
  /// Unset: bf16, but of an fp8 checkpoint fp8. There fp8 keeps codes and scales as they are, and
  /// what is not e4m3 becomes bf16.
  std::optional<engine::WeightFormat> weights;
  int64_t group_size = 128;  ///< a power of two, kMin..kMaxGroupSize; fp8: of activations
  /// Unset: as weights, but w8 for w4; of an fp8 checkpoint kept as it is, as it has them.
  std::optional<engine::WeightFormat> head_weights;
};

/// The format that most matrices get.
engine::WeightFormat main_format(const QuantizationRequest& request,
                                 const std::vector<BoundTensor>& tensors);

struct LaneChoice {
  int64_t lanes = 1;
  std::string reason;  ///< why not more; empty when kMaxReductionLanes
};

/// The largest power of two up to kMaxReductionLanes that divides the heads and every tensor that
/// is cut, and leaves each row-cut reduction a group of at least kMinGroupSize (quantized) or whole
/// pairs (bf16). `format`: main_format().
LaneChoice choose_reduction_lanes(const engine::ModelConfig& model,
                                  const std::vector<BoundTensor>& tensors,
                                  engine::WeightFormat format);

/// The largest power of two <= requested that divides `cols`, or 0 when none reaches kMinGroupSize.
int64_t largest_group_size(int64_t cols, int64_t requested);

/// Sets format, group_size and, of fp8, blocks of scales of every tensor; vectors stay f32. Groups
/// straddle no block of scales. Notes say where a group had to be smaller than requested. Errors:
/// kFailedPrecondition naming a tensor whose columns admit no group, and what to do.
Result<std::vector<std::string>> plan_formats(const QuantizationRequest& request, int64_t lanes,
                                              std::vector<BoundTensor>* tensors);

}  // namespace phalanx::builder
