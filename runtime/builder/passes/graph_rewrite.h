// Moves that several passes make on a graph. Called by passes only.
#pragma once

#include <string>
#include <vector>

#include "runtime/model/engine.pb.h"
#include "runtime/model/graph_shapes.h"

namespace phalanx::builder {

/// Whether the linears at these op indices can become one: same input, layer, format, columns,
/// group size and kind of cut, and each has its own op.
bool can_merge_linears(const engine::Graph& graph, const std::vector<int>& ops,
                       const model::WeightTable& weights);

/// Puts the linears at `ops` into the first of them, in the given order, under `name`; the others
/// become empty ops that erase_empty_ops removes, so that indices stay valid meanwhile.
void merge_linears(engine::Graph* graph, const std::vector<int>& ops, const std::string& name);

/// Removes ops that were emptied (kind OP_UNSPECIFIED).
void erase_empty_ops(engine::Graph* graph);

/// "layers.3.qkv" next to "layers.3.q".
std::string sibling_name(const std::string& op_name, const std::string& last_part);

}  // namespace phalanx::builder
