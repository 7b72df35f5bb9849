// fuse_qkv: the three projections that feed one attention read the same rows, so one linear can
// quantize those rows once and walk the three weights in one parallel region.
#include "runtime/builder/passes/graph_rewrite.h"
#include "runtime/builder/passes/pass.h"
#include "runtime/model/graph.h"

namespace phalanx::builder {

namespace {

/// The op that computes what `value` holds before head norms and rope changed it in place.
int producer_behind_in_place(const engine::Graph& graph, const model::GraphIndex& index,
                             const std::string& value) {
  int op = index.producer(value);
  while (op >= 0 &&
         (graph.ops(op).kind() == engine::ROPE || graph.ops(op).kind() == engine::HEAD_NORM))
    op = index.producer(graph.ops(op).inputs(0));
  return op;
}

}  // namespace

Status fuse_qkv(PassContext& context) {
  const model::WeightTable weights(context.weights);
  const model::GraphIndex index(context.graph);
  for (int i = 0; i < context.graph.ops_size(); ++i) {
    const engine::Op& attention = context.graph.ops(i);
    if (attention.kind() != engine::ATTENTION) continue;
    std::vector<int> projections;
    for (const std::string& input : attention.inputs())
      projections.push_back(producer_behind_in_place(context.graph, index, input));
    if (!can_merge_linears(context.graph, projections, weights)) continue;
    merge_linears(&context.graph, projections, sibling_name(attention.name(), "qkv"));
    ++context.num_rewrites;
  }
  erase_empty_ops(&context.graph);
  return {};
}

}  // namespace phalanx::builder
