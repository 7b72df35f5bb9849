// Adds up an engine's matrices.
#include "launcher/bench/model_costs.h"

#include <map>

#include "runtime/executor/stage_plan.h"

namespace phalanx::bench {

ModelCosts model_costs(const engine::EngineManifest& manifest, kernels::KvFormat kv_format) {
  const parallel::RankTopology alone = *parallel::make_rank_topology(1, 0, 1, 1);
  const StagePlan plan = make_stage_plan(manifest, alone, {1, 1, 1});
  const engine::ModelConfig& model = manifest.model();
  ModelCosts costs;
  std::map<kernels::WeightFormat, double> parameters;
  for (const engine::Op& op : plan.ops) {
    if (op.kind() != engine::LINEAR) continue;
    const LinearPlan& linear = plan.linears.at(op.name());
    const double count = static_cast<double>(linear.num_rows * linear.num_cols);
    parameters[linear.format] += count;
    costs.weight_bytes += static_cast<double>(linear.packed_bytes);
    const bool is_head = plan.placements.at(op.outputs(0)).selected;
    (is_head ? costs.head_ops_per_token : costs.layer_ops_per_token) += 2 * count;
  }
  for (const auto& [format, count] : parameters) {
    if (count > parameters[costs.weights]) costs.weights = format;
  }
  const auto layers = static_cast<double>(model.num_hidden_layers());
  costs.attention_ops_per_pair =
      layers * 4 * static_cast<double>(model.num_attention_heads() * model.head_dim());
  costs.kv_bytes_per_token =
      layers * static_cast<double>(model.num_key_value_heads()) *
      static_cast<double>(kernels::kv_block_bytes(kv_format, model.head_dim())) /
      static_cast<double>(kernels::kBlockTokens);
  return costs;
}

}  // namespace phalanx::bench
