// Instantiation of op templates, with local names numbered so that each value is made once.
#include "runtime/builder/graph_builder.h"

#include <map>
#include <unordered_map>

#include "runtime/model/graph.h"
#include "runtime/model/graph_shapes.h"

namespace phalanx::builder {

namespace {

class Instantiation {
 public:
  Instantiation(const engine::Architecture& architecture, const CheckpointConfig& config,
                const TensorBinding& binding, const model::WeightTable& weights)
      : architecture_(architecture), config_(config), binding_(binding), weights_(weights) {}

  Result<engine::Graph> run();

 private:
  Status add_section(const google::protobuf::RepeatedPtrField<engine::OpTemplate>& ops,
                     int64_t layer);
  Status add_op(const engine::OpTemplate& text, int64_t layer);
  Result<std::string> weight_name(const engine::OpTemplate& text, const std::string& role,
                                  int64_t layer) const;
  std::string fresh_name(const std::string& prefix, const std::string& local);

  const engine::Architecture& architecture_;
  const CheckpointConfig& config_;
  const TensorBinding& binding_;
  const model::WeightTable& weights_;

  engine::Graph graph_;
  std::unordered_map<std::string, std::string> current_;  // local name -> value that holds it now
  std::unordered_map<std::string, int> versions_;         // prefix + local name -> times written
  std::unordered_map<std::string, engine::Value> values_;
};

std::string prefix_of(int64_t layer) {
  return layer < 0 ? "" : "layers." + std::to_string(layer) + ".";
}

std::string Instantiation::fresh_name(const std::string& prefix, const std::string& local) {
  const int version = versions_[prefix + local]++;
  std::string name = prefix + local;
  if (version > 0) name.append(".").append(std::to_string(version));
  return name;
}

/// The engine weight of a role, or "" when its condition is off.
Result<std::string> Instantiation::weight_name(const engine::OpTemplate& text,
                                               const std::string& role, int64_t layer) const {
  for (const int64_t where : {layer, int64_t{-1}}) {
    const auto found = binding_.weight_of_role.find({role, where});
    if (found != binding_.weight_of_role.end()) return found->second;
  }
  for (const engine::TensorTemplate& tensor : architecture_.tensors()) {
    if (tensor.role() != role) continue;
    if (!tensor.condition().empty() && !config_.switches.at(tensor.condition()))
      return std::string();
    return invalid_argument("op \"" + text.name() + "\" uses the role \"" + role +
                            "\", which belongs to a layer, outside of one");
  }
  return invalid_argument("op \"" + text.name() + "\" uses the unknown role \"" + role + "\"");
}

Status Instantiation::add_op(const engine::OpTemplate& text, int64_t layer) {
  engine::Op op;
  op.set_kind(text.kind());
  op.set_name(prefix_of(layer) + text.name());
  op.set_layer(layer);
  for (const std::string& role : text.weights()) {
    PHALANX_ASSIGN_OR_RETURN(const std::string name, weight_name(text, role, layer));
    if (name.empty())
      return invalid_argument("op \"" + text.name() + "\" needs the role \"" + role +
                              "\", whose condition is off");
    op.add_weights(name);
  }
  const bool is_linear = text.kind() == engine::LINEAR;
  for (const std::string& role : text.biases()) {
    std::string name;
    if (!role.empty()) {
      PHALANX_ASSIGN_OR_RETURN(name, weight_name(text, role, layer));
    }
    if (is_linear || !name.empty()) op.add_biases(name);
  }
  while (is_linear && op.biases_size() < op.weights_size()) op.add_biases("");
  if (text.kind() == engine::RMS_NORM || text.kind() == engine::HEAD_NORM ||
      text.kind() == engine::ADD_RMS_NORM)
    op.set_eps(config_.model.rms_norm_eps());

  std::vector<const engine::Value*> inputs;
  for (const std::string& local : text.inputs()) {
    const auto found = current_.find(local);
    if (found == current_.end())
      return invalid_argument("op \"" + text.name() + "\" reads \"" + local +
                              "\", which no op before it writes");
    op.add_inputs(found->second);
    inputs.push_back(&values_.at(found->second));
  }
  for (const std::string& local : text.outputs())
    op.add_outputs(fresh_name(prefix_of(layer), local));
  PHALANX_ASSIGN_OR_RETURN(const std::vector<engine::Value> made,
                           model::infer_outputs(op, inputs, weights_, config_.model));
  for (int i = 0; i < text.outputs_size(); ++i) {
    const engine::Value& value = made[static_cast<size_t>(i)];
    current_[text.outputs(i)] = value.name();
    values_[value.name()] = value;
    *graph_.add_values() = value;
  }
  *graph_.add_ops() = std::move(op);
  return {};
}

Status Instantiation::add_section(const google::protobuf::RepeatedPtrField<engine::OpTemplate>& ops,
                                  int64_t layer) {
  for (const engine::OpTemplate& text : ops) {
    if (!text.condition().empty() && !config_.switches.at(text.condition())) continue;
    PHALANX_RETURN_IF_ERROR(add_op(text, layer));
  }
  return {};
}

Result<engine::Graph> Instantiation::run() {
  PHALANX_RETURN_IF_ERROR(add_section(architecture_.prologue(), -1));
  for (int64_t layer = 0; layer < config_.model.num_hidden_layers(); ++layer)
    PHALANX_RETURN_IF_ERROR(add_section(architecture_.layer(), layer));
  PHALANX_RETURN_IF_ERROR(add_section(architecture_.epilogue(), -1));
  return std::move(graph_);
}

}  // namespace

std::vector<engine::Weight> weights_of(const TensorBinding& binding) {
  std::vector<engine::Weight> weights;
  weights.reserve(binding.tensors.size());
  for (const BoundTensor& bound : binding.tensors) weights.push_back(bound.weight);
  return weights;
}

Result<engine::Graph> build_graph(const engine::Architecture& architecture,
                                  const CheckpointConfig& config, const TensorBinding& binding) {
  const std::vector<engine::Weight> weights = weights_of(binding);
  const model::WeightTable table(weights);
  auto graph = Instantiation(architecture, config, binding, table).run();
  Status status = graph.ok() ? model::verify_graph(*graph, weights, config.model) : graph.error();
  if (!status.ok())
    return invalid_argument("architecture " + architecture.name() + ": " + status.error().message);
  return graph;
}

}  // namespace phalanx::builder
