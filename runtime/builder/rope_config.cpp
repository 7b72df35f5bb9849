// Rope parameters of both config dialects, with unknown ones refused.
#include "runtime/builder/rope_config.h"

#include <cmath>
#include <set>

namespace phalanx::builder {

namespace {

using nlohmann::json;

/// One dictionary of rope parameters; every key must be asked for.
class Parameters {
 public:
  Parameters(std::string where, const json& object) : where_(std::move(where)), object_(object) {}

  json value(const std::string& key) {
    used_.insert(key);
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(key);
    return found == object_.end() ? json(nullptr) : *found;
  }

  Result<double> positive(const std::string& key, const json& fallback = nullptr) {
    json found = value(key);
    if (found.is_null()) found = fallback;
    if (found.is_null()) return invalid_argument("config.json: " + where_ + " lacks " + key);
    if (!found.is_number() || !(found.get<double>() > 0) || !std::isfinite(found.get<double>()))
      return invalid_argument("config.json: " + where_ + "." + key + " is " + found.dump() +
                              ", must be a positive number");
    return found.get<double>();
  }

  Status check_all_used() const {
    if (!object_.is_object()) return {};
    for (const auto& [key, found] : object_.items()) {
      if (used_.count(key) == 0 && !found.is_null())
        return unsupported("config.json: " + where_ + "." + key + " is " + found.dump() +
                           ", which this rope type does not use");
    }
    return {};
  }

 private:
  std::string where_;
  const json& object_;
  std::set<std::string> used_;
};

Status read_llama3(Parameters& parameters, const RopeFields& fields,
                   const engine::ModelConfig& model, engine::Rope* rope) {
  PHALANX_ASSIGN_OR_RETURN(const double factor, parameters.positive("factor"));
  PHALANX_ASSIGN_OR_RETURN(const double low, parameters.positive("low_freq_factor"));
  PHALANX_ASSIGN_OR_RETURN(const double high, parameters.positive("high_freq_factor"));
  if (!(high > low))
    return invalid_argument("config.json: high_freq_factor must be greater than low_freq_factor");
  // A value beside the parameters wins, then theirs, then the model's length.
  const json inside = parameters.value("original_max_position_embeddings");
  json original = fields.original_max_position_embeddings;
  if (original.is_null()) original = inside;
  if (original.is_null()) original = model.max_position_embeddings();
  if (!original.is_number_integer() || original < 1 || original > (int64_t{1} << 30))
    return invalid_argument("config.json: original_max_position_embeddings is " + original.dump() +
                            ", must be a positive integer");
  rope->set_type(engine::Rope::LLAMA3);
  rope->set_factor(factor);
  rope->set_low_freq_factor(low);
  rope->set_high_freq_factor(high);
  rope->set_original_max_position_embeddings(original.get<int64_t>());
  return {};
}

}  // namespace

Result<engine::Rope> read_rope(const RopeFields& fields, const engine::ModelConfig& model) {
  const auto filled = [](const json& value) { return !value.is_null() && !value.empty(); };
  // transformers reads rope_scaling first where a file holds both.
  const bool old_dialect = filled(fields.scaling);
  const json& object = old_dialect ? fields.scaling : fields.parameters;
  Parameters parameters(old_dialect ? "rope_scaling" : "rope_parameters", object);
  if (filled(object) && !object.is_object())
    return invalid_argument("config.json: rope parameters are " + object.dump() +
                            ", must be an object");

  json type = parameters.value("rope_type");
  const json old_type = parameters.value("type");
  if (type.is_null()) type = old_type;
  if (type.is_null()) type = "default";

  engine::Rope rope;
  rope.set_rotary_dim(model.head_dim());
  PHALANX_ASSIGN_OR_RETURN(const double theta, parameters.positive("rope_theta", fields.theta));
  rope.set_theta(theta);
  for (const json& partial :
       {parameters.value("partial_rotary_factor"), fields.partial_rotary_factor}) {
    if (!partial.is_null() && partial != 1.0)
      return unsupported("config.json: partial_rotary_factor is " + partial.dump() +
                         ", only whole heads (1.0) are rotated");
  }
  if (type == "default") {
    rope.set_type(engine::Rope::DEFAULT);
  } else if (type == "linear") {
    PHALANX_ASSIGN_OR_RETURN(const double factor, parameters.positive("factor"));
    rope.set_type(engine::Rope::LINEAR);
    rope.set_factor(factor);
  } else if (type == "llama3") {
    PHALANX_RETURN_IF_ERROR(read_llama3(parameters, fields, model, &rope));
  } else {
    return unsupported("config.json: rope type is " + type.dump() +
                       "; supported are default, linear and llama3");
  }
  PHALANX_RETURN_IF_ERROR(parameters.check_all_used());
  return rope;
}

}  // namespace phalanx::builder
