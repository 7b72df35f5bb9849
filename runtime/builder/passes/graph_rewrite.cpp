// Merging of linears and removal of emptied ops.
#include "runtime/builder/passes/graph_rewrite.h"

#include <algorithm>
#include <set>

namespace phalanx::builder {

bool can_merge_linears(const engine::Graph& graph, const std::vector<int>& ops,
                       const model::WeightTable& weights) {
  if (ops.size() < 2 || std::set<int>(ops.begin(), ops.end()).size() != ops.size()) return false;
  const engine::Weight* first_weight = nullptr;
  const engine::Op* first = nullptr;
  for (int index : ops) {
    if (index < 0) return false;
    const engine::Op& op = graph.ops(index);
    if (op.kind() != engine::LINEAR) return false;
    if (first == nullptr) first = &op;
    if (op.inputs(0) != first->inputs(0) || op.layer() != first->layer()) return false;
    for (const std::string& name : op.weights()) {
      const engine::Weight* weight = weights.find(name);
      if (weight == nullptr) return false;
      if (first_weight == nullptr) first_weight = weight;
      if (weight->format() != first_weight->format() || weight->cols() != first_weight->cols() ||
          weight->group_size() != first_weight->group_size() ||
          (weight->axis() == engine::ROW) != (first_weight->axis() == engine::ROW))
        return false;
    }
  }
  return true;
}

void merge_linears(engine::Graph* graph, const std::vector<int>& ops, const std::string& name) {
  engine::Op merged;
  merged.set_kind(engine::LINEAR);
  merged.set_name(name);
  merged.set_layer(graph->ops(ops.front()).layer());
  merged.add_inputs(graph->ops(ops.front()).inputs(0));
  for (int index : ops) {
    const engine::Op& op = graph->ops(index);
    merged.mutable_outputs()->MergeFrom(op.outputs());
    merged.mutable_weights()->MergeFrom(op.weights());
    merged.mutable_biases()->MergeFrom(op.biases());
  }
  for (int index : ops) graph->mutable_ops(index)->Clear();
  // The earliest place: the shared input is there, and every reader of an output comes later.
  *graph->mutable_ops(*std::min_element(ops.begin(), ops.end())) = std::move(merged);
}

void erase_empty_ops(engine::Graph* graph) {
  auto* ops = graph->mutable_ops();
  ops->erase(
      std::remove_if(ops->begin(), ops->end(),
                     [](const engine::Op& op) { return op.kind() == engine::OP_UNSPECIFIED; }),
      ops->end());
}

std::string sibling_name(const std::string& op_name, const std::string& last_part) {
  const size_t dot = op_name.rfind('.');
  return dot == std::string::npos ? last_part : op_name.substr(0, dot + 1) + last_part;
}

}  // namespace phalanx::builder
