// Verification of a graph: everything the executor takes for granted.
#include <unordered_map>
#include <unordered_set>

#include "runtime/model/graph.h"
#include "runtime/model/graph_shapes.h"

namespace phalanx::model {

namespace {

Error op_error(const engine::Op& op, const std::string& message) {
  return invalid_argument("op " + op.name() + " (" + op_kind_name(op.kind()) + "): " + message);
}

bool same_value(const engine::Value& a, const engine::Value& b) {
  return a.name() == b.name() && a.cols() == b.cols() && a.axis() == b.axis() &&
         a.shard_unit() == b.shard_unit() && a.partial() == b.partial() &&
         a.selected() == b.selected();
}

std::string value_text(const engine::Value& value) {
  return std::to_string(value.cols()) + " " + shard_axis_text(value.axis()) + " unit " +
         std::to_string(value.shard_unit()) + (value.partial() ? " partial" : "") +
         (value.selected() ? " selected" : "");
}

/// Walks the ops in order and keeps what is defined, what was overwritten, and which layer it is.
class Verifier {
 public:
  Verifier(const engine::Graph& graph, const std::vector<engine::Weight>& weights,
           const engine::ModelConfig& config)
      : graph_(graph), weights_(weights), config_(config) {}

  Status run();

 private:
  Status declare_values();
  Status check_op(const engine::Op& op);
  Status check_inputs(const engine::Op& op, std::vector<const engine::Value*>* inputs);
  Status check_outputs(const engine::Op& op, const std::vector<engine::Value>& inferred);
  Status check_layer(const engine::Op& op);
  Status check_end();
  Status check_stage_cuts();

  const engine::Graph& graph_;
  const WeightTable weights_;
  const engine::ModelConfig& config_;

  std::unordered_map<std::string, const engine::Value*> declared_;
  std::unordered_set<std::string> defined_;
  std::unordered_set<std::string> read_;
  std::unordered_map<std::string, std::string> overwritten_by_;
  std::unordered_set<std::string> op_names_;
  int64_t layer_ = -1;
  bool layers_ended_ = false;
  int64_t attentions_ = 0;
  int num_selects_ = 0;
};

Status Verifier::declare_values() {
  for (const engine::Value& value : graph_.values()) {
    if (value.name().empty()) return invalid_argument("graph: a value has no name");
    if (value.cols() < 1 || value.shard_unit() < 1 || value.axis() == engine::ROW)
      return invalid_argument("graph: value " + value.name() + " is " + value_text(value) +
                              ", which no value can be");
    if (!declared_.emplace(value.name(), &value).second)
      return invalid_argument("graph: value " + value.name() + " is listed twice");
  }
  return {};
}

Status Verifier::check_layer(const engine::Op& op) {
  const int64_t layer = op.layer();
  if (layer < -1 || layer >= config_.num_hidden_layers())
    return op_error(op, "is in layer " + std::to_string(layer) + ", allowed are -1 to " +
                            std::to_string(config_.num_hidden_layers() - 1));
  if (layer == -1) {
    layers_ended_ = layer_ >= 0;
  } else if (layers_ended_ || layer < layer_ || layer > layer_ + 1) {
    return op_error(op, "is in layer " + std::to_string(layer) + " after layer " +
                            std::to_string(layers_ended_ ? -1 : layer_) +
                            "; layers must ascend one by one");
  } else {
    layer_ = layer;
  }
  return {};
}

Status Verifier::check_inputs(const engine::Op& op, std::vector<const engine::Value*>* inputs) {
  for (int i = 0; i < op.inputs_size(); ++i) {
    const std::string& name = op.inputs(i);
    if (defined_.count(name) == 0)
      return op_error(op, "reads " + name + ", which no earlier op makes");
    if (const auto gone = overwritten_by_.find(name); gone != overwritten_by_.end())
      return op_error(op, "reads " + name + ", which " + gone->second + " overwrote");
    for (int j = 0; j < i; ++j) {
      if (op.inputs(j) == name) return op_error(op, "reads " + name + " twice");
    }
    read_.insert(name);
    inputs->push_back(declared_.at(name));
  }
  if (const int index = in_place_input(op.kind()); index >= 0 && index < op.inputs_size())
    overwritten_by_.emplace(op.inputs(index), op.name());
  return {};
}

Status Verifier::check_outputs(const engine::Op& op, const std::vector<engine::Value>& inferred) {
  for (const engine::Value& value : inferred) {
    const auto declared = declared_.find(value.name());
    if (declared == declared_.end())
      return op_error(op, "makes " + value.name() + ", which the graph's values lack");
    if (!same_value(*declared->second, value))
      return op_error(op, "makes " + value.name() + " as " + value_text(value) +
                              ", but it is listed as " + value_text(*declared->second));
    if (!defined_.insert(value.name()).second)
      return op_error(op, "makes " + value.name() + ", which an earlier op made");
  }
  return {};
}

Status Verifier::check_op(const engine::Op& op) {
  if (op.name().empty()) return invalid_argument("graph: an op has no name");
  if (!op_names_.insert(op.name()).second) return op_error(op, "has a name used before");
  PHALANX_RETURN_IF_ERROR(check_layer(op));
  std::vector<const engine::Value*> inputs;
  PHALANX_RETURN_IF_ERROR(check_inputs(op, &inputs));
  PHALANX_ASSIGN_OR_RETURN(const std::vector<engine::Value> inferred,
                           infer_outputs(op, inputs, weights_, config_));
  PHALANX_RETURN_IF_ERROR(check_outputs(op, inferred));

  const bool norm = op.kind() == engine::RMS_NORM || op.kind() == engine::HEAD_NORM ||
                    op.kind() == engine::ADD_RMS_NORM;
  if (norm ? !(op.eps() > 0 && op.eps() < 1) : op.eps() != 0)
    return op_error(op, "has eps " + std::to_string(op.eps()) +
                            (norm ? ", must be between 0 and 1" : ", must be unset"));
  if ((op.kind() == engine::EMBEDDING) != (op_names_.size() == 1))
    return op_error(op, "the embedding must be the first op and the only one of its kind");
  if (op.kind() == engine::ATTENTION && ++attentions_ != layer_ + 1)
    return op_error(op, "each layer must have exactly one attention");
  if (op.kind() == engine::SELECT_ROWS && ++num_selects_ > 1)
    return op_error(op, "rows can be selected only once");
  return {};
}

Status Verifier::check_end() {
  if (layer_ + 1 != config_.num_hidden_layers() || attentions_ != config_.num_hidden_layers())
    return invalid_argument("graph: has " + std::to_string(layer_ + 1) + " layers with " +
                            std::to_string(attentions_) + " attentions, the model has " +
                            std::to_string(config_.num_hidden_layers()));
  const engine::Op& last = graph_.ops(graph_.ops_size() - 1);
  if (last.outputs_size() != 1) return op_error(last, "is last and must make the logits only");
  const engine::Value& logits = *declared_.at(last.outputs(0));
  if (logits.axis() != engine::VOCAB || logits.cols() != config_.vocab_size() || !logits.selected())
    return op_error(last, "makes " + value_text(logits) + " last, must be the logits: " +
                              std::to_string(config_.vocab_size()) + " vocab selected");
  for (const engine::Value& value : graph_.values()) {
    if (defined_.count(value.name()) == 0)
      return invalid_argument("graph: value " + value.name() + " is listed, but no op makes it");
    if (read_.count(value.name()) == 0 && value.name() != logits.name())
      return invalid_argument("graph: value " + value.name() + " is dead: no op reads it");
  }
  return {};
}

/// Each layer can open a pipeline stage, with one value from the stage before.
Status Verifier::check_stage_cuts() {
  const std::vector<int> cuts = stage_cuts(graph_, config_.num_hidden_layers());
  size_t next_layer = 1;  // whose cut lies ahead
  int cut = -1;           // the last one before op i
  int attention = -1;
  std::unordered_map<std::string, int> made_at;
  for (int i = 0; i < graph_.ops_size(); ++i) {
    const engine::Op& op = graph_.ops(i);
    if (op.kind() == engine::ATTENTION) {
      if (op.layer() > 0 && cuts[static_cast<size_t>(op.layer())] < attention)
        return op_error(op, "follows " + graph_.ops(attention).name() +
                                " without an add in between; a pipeline stage could not begin "
                                "with layer " +
                                std::to_string(op.layer()));
      attention = i;
    }
    for (const std::string& input : op.inputs()) {
      if (made_at.at(input) < cut)
        return op_error(op, "reads " + input + ", made before " + graph_.ops(cut).name() +
                                ", where a pipeline stage can begin; only " +
                                graph_.ops(cut).outputs(0) + " can cross");
    }
    for (const std::string& output : op.outputs()) made_at.emplace(output, i);
    if (next_layer < cuts.size() && cuts[next_layer] == i) {
      cut = i;
      ++next_layer;
    }
  }
  return {};
}

Status Verifier::run() {
  if (graph_.ops().empty()) return invalid_argument("graph: has no ops");
  PHALANX_RETURN_IF_ERROR(declare_values());
  for (const engine::Op& op : graph_.ops()) PHALANX_RETURN_IF_ERROR(check_op(op));
  PHALANX_RETURN_IF_ERROR(check_end());
  return check_stage_cuts();
}

}  // namespace

Status verify_graph(const engine::Graph& graph, const std::vector<engine::Weight>& weights,
                    const engine::ModelConfig& config) {
  return Verifier(graph, weights, config).run();
}

}  // namespace phalanx::model
