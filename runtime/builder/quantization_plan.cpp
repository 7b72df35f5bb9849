// Arithmetic of lanes and groups.
#include "runtime/builder/quantization_plan.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "runtime/model/graph_shapes.h"
#include "runtime/model/manifest.h"

namespace phalanx::builder {

namespace {

using model::is_quantized;

/// Columns that a scale of the tensor covers as fp8.
int64_t fp8_block_cols(const BoundTensor& bound) {
  return bound.e4m3.tensor != nullptr ? bound.e4m3.cols : kFp8BlockCols;
}

/// What a group must divide: a lane's columns and, of fp8, a block's, unless it has all.
int64_t grouped_cols(const BoundTensor& bound, engine::WeightFormat format, int64_t parts) {
  const int64_t lane_cols = bound.weight.cols() / parts;
  const int64_t block_cols = fp8_block_cols(bound);
  if (format != engine::FP8 || block_cols >= bound.weight.cols()) return lane_cols;
  return std::gcd(lane_cols, block_cols);
}

bool keeps_e4m3(const QuantizationRequest& request, const std::vector<BoundTensor>& tensors) {
  return request.weights.value_or(engine::FP8) == engine::FP8 && has_e4m3(tensors);
}

/// Why `lanes` cannot be, or "".
std::string obstacle(const engine::ModelConfig& model, const std::vector<BoundTensor>& tensors,
                     engine::WeightFormat format, int64_t lanes) {
  if (model.num_attention_heads() % lanes != 0)
    return "num_attention_heads " + std::to_string(model.num_attention_heads()) +
           " is no multiple of " + std::to_string(lanes);
  for (const BoundTensor& bound : tensors) {
    const engine::Weight& weight = bound.weight;
    if (weight.axis() == engine::COLUMN) {
      const int64_t units = weight.rows() / weight.shard_unit();
      if (units % lanes != 0)
        return weight.name() + " has " + std::to_string(units) + " outputs, no multiple of " +
               std::to_string(lanes);
    }
    if (weight.axis() != engine::ROW) continue;
    if (weight.cols() % lanes != 0)
      return weight.name() + " reduces over " + std::to_string(weight.cols()) +
             " inputs, no multiple of " + std::to_string(lanes);
    const int64_t lane_cols = weight.cols() / lanes;
    if (is_quantized(format) &&
        largest_group_size(grouped_cols(bound, format, lanes), kMaxGroupSize) == 0)
      return weight.name() + " would have lanes of " + std::to_string(lane_cols) +
             " inputs, which no power of two >= " + std::to_string(kMinGroupSize) + " divides";
    if (format == engine::BF16 && lanes > 1 && lane_cols % 2 != 0)
      return weight.name() + " would have lanes of " + std::to_string(lane_cols) +
             " inputs, an odd number";
  }
  return "";
}

}  // namespace

engine::WeightFormat main_format(const QuantizationRequest& request,
                                 const std::vector<BoundTensor>& tensors) {
  return request.weights.value_or(has_e4m3(tensors) ? engine::FP8 : engine::BF16);
}

LaneChoice choose_reduction_lanes(const engine::ModelConfig& model,
                                  const std::vector<BoundTensor>& tensors,
                                  engine::WeightFormat format) {
  LaneChoice choice;
  for (int64_t lanes = kMaxReductionLanes; lanes >= 1; lanes /= 2) {
    const std::string why = obstacle(model, tensors, format, lanes);
    choice.lanes = lanes;
    if (why.empty()) return choice;
    choice.reason = std::to_string(lanes) + " lanes: " + why;
  }
  return choice;  // one lane; plan_formats says what is wrong with it
}

int64_t largest_group_size(int64_t cols, int64_t requested) {
  int64_t size = kMinGroupSize;
  if (requested < kMinGroupSize || cols % kMinGroupSize != 0) return 0;
  while (size * 2 <= requested && cols % (size * 2) == 0) size *= 2;
  return size;
}

Result<std::vector<std::string>> plan_formats(const QuantizationRequest& request, int64_t lanes,
                                              std::vector<BoundTensor>* tensors) {
  const engine::WeightFormat main = main_format(request, *tensors);
  const bool keeps = keeps_e4m3(request, *tensors);
  const auto format_of = [&](const BoundTensor& bound) {
    if (bound.is_table && request.head_weights.has_value()) return *request.head_weights;
    if (keeps) return bound.e4m3.tensor != nullptr ? engine::FP8 : engine::BF16;
    return bound.is_table && main == engine::W4 ? engine::W8 : main;
  };
  std::map<std::pair<std::string, int64_t>, int> smaller;  // (why, group) -> tensors
  for (BoundTensor& bound : *tensors) {
    engine::Weight& weight = bound.weight;
    if (weight.cols() == 0) continue;
    weight.set_format(format_of(bound));
    if (!is_quantized(weight.format())) continue;
    const int64_t parts = weight.axis() == engine::ROW ? lanes : 1;
    const int64_t group_cols = grouped_cols(bound, weight.format(), parts);
    const int64_t group = largest_group_size(group_cols, request.group_size);
    const bool is_fp8 = weight.format() == engine::FP8;
    const bool has_blocks = is_fp8 && fp8_block_cols(bound) < weight.cols();
    if (is_fp8) {
      weight.set_scale_rows(bound.e4m3.tensor != nullptr ? bound.e4m3.rows : kFp8BlockRows);
      weight.set_scale_cols(fp8_block_cols(bound));
    }
    if (group == 0)
      return failed_precondition(
          "weight " + weight.name() + " has " + std::to_string(weight.cols()) + " columns" +
          (parts > 1 ? " in " + std::to_string(parts) + " lanes" : std::string()) +
          (has_blocks ? " and a scale every " + std::to_string(weight.scale_cols()) : "") +
          ", which admit no group of " + std::to_string(kMinGroupSize) + " or more for " +
          model::weight_format_text(weight.format()) + "; use --weights bf16 or f32" +
          (bound.is_table ? " (or --head-weights bf16)" : ""));
    weight.set_group_size(group);
    if (group < request.group_size) {
      std::string why = std::to_string(weight.cols() / parts);
      why += parts > 1 ? " columns a lane" : " columns";
      if (has_blocks) why += " and blocks of " + std::to_string(weight.scale_cols());
      ++smaller[{why, group}];
    }
  }
  std::vector<std::string> notes;
  for (const auto& [key, count] : smaller)
    notes.push_back("group size " + std::to_string(key.second) + " instead of " +
                    std::to_string(request.group_size) + " in " + std::to_string(count) +
                    " weights: the largest that divides " + key.first);
  return notes;
}

}  // namespace phalanx::builder
