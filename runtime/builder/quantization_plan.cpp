// Arithmetic of lanes and groups.
#include "runtime/builder/quantization_plan.h"

#include <algorithm>
#include <map>

#include "runtime/model/graph_shapes.h"

namespace phalanx::builder {

namespace {

bool is_quantized(engine::WeightFormat format) {
  return format == engine::W8 || format == engine::W4;
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
    if (is_quantized(format) && largest_group_size(lane_cols, kMaxGroupSize) == 0)
      return weight.name() + " would have lanes of " + std::to_string(lane_cols) +
             " inputs, which no power of two >= " + std::to_string(kMinGroupSize) + " divides";
    if (format == engine::BF16 && lanes > 1 && lane_cols % 2 != 0)
      return weight.name() + " would have lanes of " + std::to_string(lane_cols) +
             " inputs, an odd number";
  }
  return "";
}

}  // namespace

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
  engine::WeightFormat head = request.weights == engine::W4 ? engine::W8 : request.weights;
  if (request.head_weights.has_value()) head = *request.head_weights;
  std::map<std::pair<std::string, int64_t>, int> smaller;  // (why, group) -> tensors
  for (BoundTensor& bound : *tensors) {
    engine::Weight& weight = bound.weight;
    if (weight.cols() == 0) continue;
    weight.set_format(bound.is_table ? head : request.weights);
    if (!is_quantized(weight.format())) continue;
    const int64_t parts = weight.axis() == engine::ROW ? lanes : 1;
    const int64_t group = largest_group_size(weight.cols() / parts, request.group_size);
    if (group == 0)
      return failed_precondition(
          "weight " + weight.name() + " has " + std::to_string(weight.cols()) + " columns" +
          (parts > 1 ? " in " + std::to_string(parts) + " lanes" : std::string()) +
          ", which admit no group of " + std::to_string(kMinGroupSize) + " or more for " +
          model::weight_format_text(weight.format()) + "; use --weights bf16 or f32" +
          (bound.is_table ? " (or --head-weights bf16)" : ""));
    weight.set_group_size(group);
    if (group < request.group_size) {
      std::string why = std::to_string(weight.cols() / parts);
      why += parts > 1 ? " columns a lane" : " columns";
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
