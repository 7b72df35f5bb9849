// Look-ups over a graph and its readable dump.
#include "runtime/model/graph.h"

#include <algorithm>

#include "runtime/model/graph_shapes.h"

namespace phalanx::model {

GraphIndex::GraphIndex(const engine::Graph& graph) {
  for (const engine::Value& value : graph.values()) values_.emplace(value.name(), &value);
  for (int i = 0; i < graph.ops_size(); ++i) {
    for (const std::string& output : graph.ops(i).outputs()) producers_[output] = i;
    for (const std::string& input : graph.ops(i).inputs()) {
      std::vector<int>& readers = consumers_[input];
      if (readers.empty() || readers.back() != i) readers.push_back(i);
    }
  }
}

const engine::Value* GraphIndex::value(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? nullptr : found->second;
}

int GraphIndex::producer(const std::string& name) const {
  const auto found = producers_.find(name);
  return found == producers_.end() ? -1 : found->second;
}

const std::vector<int>& GraphIndex::consumers(const std::string& name) const {
  static const std::vector<int> kNone;
  const auto found = consumers_.find(name);
  return found == consumers_.end() ? kNone : found->second;
}

std::vector<int> stage_cuts(const engine::Graph& graph, int64_t num_layers) {
  std::vector<int> cuts(static_cast<size_t>(num_layers), -1);
  int last_add = -1;
  for (int i = 0; i < graph.ops_size(); ++i) {
    const engine::Op& op = graph.ops(i);
    if (op.kind() == engine::ADD || op.kind() == engine::ADD_RMS_NORM) last_add = i;
    if (op.kind() == engine::ATTENTION) cuts.at(static_cast<size_t>(op.layer())) = last_add;
  }
  return cuts;
}

namespace {

template <typename Names>
std::string join(const Names& names, const char* separator) {
  std::string text;
  for (const std::string& name : names) {
    if (!text.empty()) text += separator;
    text += name;
  }
  return text;
}

std::string padded(std::string text, size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

/// "[256 -> 512+128+128 w8 g64 column]" of a LINEAR or EMBEDDING, "" of others.
std::string weight_summary(const engine::Op& op, const WeightTable& weights) {
  if (op.kind() != engine::LINEAR && op.kind() != engine::EMBEDDING) return "";
  std::string rows;
  const engine::Weight* first = nullptr;
  for (const std::string& name : op.weights()) {
    const engine::Weight* weight = weights.find(name);
    if (weight == nullptr) return "[" + name + "?]";
    if (first == nullptr) first = weight;
    if (!rows.empty()) rows += "+";
    rows += std::to_string(weight->rows());
  }
  if (first == nullptr) return "";
  std::string text = "[";
  if (op.kind() == engine::EMBEDDING) {
    text.append(rows).append(" x ").append(std::to_string(first->cols()));
  } else {
    text.append(std::to_string(first->cols())).append(" -> ").append(rows);
  }
  text += std::string(" ") + weight_format_text(first->format());
  if (first->group_size() > 0) text += " g" + std::to_string(first->group_size());
  if (op.kind() == engine::LINEAR) text += std::string(" ") + shard_axis_text(first->axis());
  return text + "]";
}

}  // namespace

std::string dump_graph(const engine::Graph& graph, const std::vector<engine::Weight>& weights) {
  const WeightTable table(weights);
  size_t name_width = 0;
  for (const engine::Op& op : graph.ops()) name_width = std::max(name_width, op.name().size());
  std::string text;
  for (const engine::Op& op : graph.ops()) {
    std::string line = padded(op.name(), name_width) + "  " + padded(op_kind_name(op.kind()), 12) +
                       "  " + (op.inputs().empty() ? "()" : join(op.inputs(), ", ")) + " -> " +
                       join(op.outputs(), ", ");
    if (const std::string summary = weight_summary(op, table); !summary.empty())
      line += "  " + summary;
    std::vector<std::string> biases;
    for (const std::string& bias : op.biases()) {
      if (!bias.empty()) biases.push_back(bias);
    }
    if (!biases.empty()) line += "  + " + join(biases, ", ");
    text += line + "\n";
  }
  return text;
}

}  // namespace phalanx::model
