// fuse_gate_up: the two projections that feed one gated activation become one linear.
#include "runtime/builder/passes/graph_rewrite.h"
#include "runtime/builder/passes/pass.h"
#include "runtime/model/graph.h"

namespace phalanx::builder {

Status fuse_gate_up(PassContext& context) {
  const model::WeightTable weights(context.weights);
  const model::GraphIndex index(context.graph);
  for (int i = 0; i < context.graph.ops_size(); ++i) {
    const engine::Op& activation = context.graph.ops(i);
    if (activation.kind() != engine::SILU_MUL) continue;
    const std::vector<int> projections = {index.producer(activation.inputs(0)),
                                          index.producer(activation.inputs(1))};
    if (!can_merge_linears(context.graph, projections, weights)) continue;
    merge_linears(&context.graph, projections, sibling_name(activation.name(), "gate_up"));
    ++context.num_rewrites;
  }
  erase_empty_ops(&context.graph);
  return {};
}

}  // namespace phalanx::builder
