// What each kind of op takes and makes: arity, in-place rules, and the width and sharding of its
// outputs. The one place where the meaning of an op kind is written down for the graph. Called by
// the graph builder, verify_graph and the passes.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::model {

/// Weights by name; views the messages it was made from.
class WeightTable {
 public:
  explicit WeightTable(const std::vector<engine::Weight>& weights);
  explicit WeightTable(const google::protobuf::RepeatedPtrField<engine::Weight>& weights);
  const engine::Weight* find(const std::string& name) const;  ///< null when absent

 private:
  std::unordered_map<std::string, const engine::Weight*> weights_;
};

/// "linear", "add_rms_norm", ...
const char* op_kind_name(engine::OpKind kind);
const char* shard_axis_text(engine::ShardAxis axis);          ///< "column", "kv_column", ...
const char* weight_format_text(engine::WeightFormat format);  ///< "f32", "bf16", "w8", "w4", "fp8"

/// Index of the input that an op of this kind overwrites, or -1. Its output 0 is that input
/// renamed.
int in_place_input(engine::OpKind kind);

/// The values `op` makes from `inputs` (as many as op.inputs()): names from op.outputs(), widths
/// and cuts from the op's kind and weights. Checks arity, widths, and that axes fit each other.
/// Errors: kInvalidArgument naming the op, the value and what is allowed.
Result<std::vector<engine::Value>> infer_outputs(const engine::Op& op,
                                                 const std::vector<const engine::Value*>& inputs,
                                                 const WeightTable& weights,
                                                 const engine::ModelConfig& config);

}  // namespace phalanx::model
