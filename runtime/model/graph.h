// The graph IR: what one step computes, as ops over named values. Made by runtime/builder,
// rewritten by its passes, stored in the engine, run by the executor. Protobuf messages are the IR
// itself (engine.proto); this adds what a list of messages lacks: look-ups, verification, a
// readable dump.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::model {

/// Index over a graph; valid while the graph is unchanged.
class GraphIndex {
 public:
  explicit GraphIndex(const engine::Graph& graph);
  const engine::Value* value(const std::string& name) const;  ///< null when absent
  /// Index of the op that writes `name` last (in-place ops rename, so it is the only one), or -1.
  int producer(const std::string& name) const;
  /// Indices of the ops that read `name`, ascending.
  const std::vector<int>& consumers(const std::string& name) const;

 private:
  std::unordered_map<std::string, const engine::Value*> values_;
  std::unordered_map<std::string, int> producers_;
  std::unordered_map<std::string, std::vector<int>> consumers_;
};

/// Checks everything the executor relies on: arity per kind, every input defined before use, each
/// value produced once, in-place inputs dead afterwards, widths that fit weights, shard axes that
/// fit each other (a partial value is consumed by ALL_REDUCE, ADD or ADD_RMS_NORM only; ...),
/// layers ascending, exactly one EMBEDDING first and the VOCAB-cut logits last; between the
/// attentions of two layers an add whose sum is all that later ops read of what came before, so
/// that any layer can open a pipeline stage. Errors: kInvalidArgument naming the op.
Status verify_graph(const engine::Graph& graph, const std::vector<engine::Weight>& weights,
                    const engine::ModelConfig& config);

/// Where a pipeline stage that begins with a layer is cut from the one before it: for each layer
/// the index of the last ADD or ADD_RMS_NORM before its attention, -1 when there is none. Its sum
/// is the one value that crosses (verify_graph); a fused norm belongs to the later stage.
std::vector<int> stage_cuts(const engine::Graph& graph, int64_t num_layers);

/// One line an op: `layers.0.qkv  linear  h0 -> q0, k0, v0  [256 -> 512+128+128 w8 g64]`.
std::string dump_graph(const engine::Graph& graph, const std::vector<engine::Weight>& weights);

}  // namespace phalanx::model
