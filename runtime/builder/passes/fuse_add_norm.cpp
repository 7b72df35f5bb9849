// fuse_add_norm: a residual add and the norm that reads its sum become one op, which touches the
// residual once; also across layers. The op stays in the add's layer, and the executor splits it
// again where a pipeline stage ends.
#include "runtime/builder/passes/graph_rewrite.h"
#include "runtime/builder/passes/pass.h"
#include "runtime/model/graph.h"

namespace phalanx::builder {

namespace {

/// Index of the norm that can join the add at `add`, or -1: the first reader of the sum. Later
/// readers of the sum do not mind.
int joinable_norm(const engine::Graph& graph, const model::GraphIndex& index, int add) {
  const std::vector<int>& readers = index.consumers(graph.ops(add).outputs(0));
  if (readers.empty() || graph.ops(readers.front()).kind() != engine::RMS_NORM) return -1;
  return readers.front();
}

}  // namespace

Status fuse_add_norm(PassContext& context) {
  const model::GraphIndex index(context.graph);
  for (int i = 0; i < context.graph.ops_size(); ++i) {
    if (context.graph.ops(i).kind() != engine::ADD) continue;
    const int norm_index = joinable_norm(context.graph, index, i);
    if (norm_index < 0) continue;
    engine::Op* add = context.graph.mutable_ops(i);
    engine::Op* norm = context.graph.mutable_ops(norm_index);
    add->set_kind(engine::ADD_RMS_NORM);
    add->set_name(add->name() + "_norm");
    add->add_outputs(norm->outputs(0));
    add->add_weights(norm->weights(0));
    add->set_eps(norm->eps());
    norm->Clear();
    ++context.num_rewrites;
  }
  erase_empty_ops(&context.graph);
  return {};
}

}  // namespace phalanx::builder
