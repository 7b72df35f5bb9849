// Inserts all-reduces behind partial values.
#include "runtime/model/collectives.h"

#include <string>
#include <unordered_map>

#include "runtime/base/check.h"

namespace phalanx::model {

engine::Graph with_collectives(const engine::Graph& graph) {
  std::unordered_map<std::string, const engine::Value*> values;
  for (const engine::Value& value : graph.values()) values.emplace(value.name(), &value);

  engine::Graph reduced;
  std::unordered_map<std::string, std::string> renamed;
  for (const engine::Op& op : graph.ops()) {
    engine::Op* copy = reduced.add_ops();
    *copy = op;
    for (std::string& input : *copy->mutable_inputs()) {
      if (const auto found = renamed.find(input); found != renamed.end()) input = found->second;
    }
    for (const std::string& output : op.outputs()) {
      const auto value = values.find(output);
      PHALANX_CHECK(value != values.end(), "value " + output + " of op " + op.name());
      *reduced.add_values() = *value->second;
      if (!value->second->partial()) continue;
      engine::Value* whole = reduced.add_values();
      *whole = *value->second;
      whole->set_name(output + ".reduced");
      whole->set_partial(false);
      renamed.emplace(output, whole->name());
      engine::Op* all_reduce = reduced.add_ops();
      all_reduce->set_kind(engine::ALL_REDUCE);
      all_reduce->set_name(op.name() + ".all_reduce");
      all_reduce->set_layer(op.layer());
      all_reduce->add_inputs(output);
      all_reduce->add_outputs(whole->name());
    }
  }
  return reduced;
}

}  // namespace phalanx::model
