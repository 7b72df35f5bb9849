// Shape and sharding inference, one function per kind of op.
#include "runtime/model/graph_shapes.h"

namespace phalanx::model {

namespace {

using engine::Op;
using engine::Value;
using engine::Weight;

/// One op being inferred: its inputs, and errors that open with its name.
class Inference {
 public:
  Inference(const Op& op, const std::vector<const Value*>& inputs, const WeightTable& weights,
            const engine::ModelConfig& config)
      : op_(op), inputs_(inputs), weights_(weights), config_(config) {}

  Result<std::vector<Value>> run();

 private:
  Error wrong(const std::string& message) const {
    return invalid_argument("op " + op_.name() + " (" + op_kind_name(op_.kind()) + "): " + message);
  }

  Status arity(int num_inputs, int num_outputs, int num_weights, int max_biases) const;
  Status check_whole(const Value& value) const;  // REPLICATED and complete
  Result<const Weight*> vector_weight(const std::string& name, int64_t rows) const;
  Result<const Weight*> matrix_weight(const std::string& name) const;
  Status check_bias(const std::string& name, const Weight& weight) const;
  Status check_heads(const Value& value, engine::ShardAxis axis, int64_t num_heads) const;

  Result<std::vector<Value>> embedding() const;
  Result<std::vector<Value>> rms_norm() const;
  Result<std::vector<Value>> linear() const;
  Result<std::vector<Value>> head_wise() const;  // HEAD_NORM, ROPE
  Result<std::vector<Value>> attention() const;
  Result<std::vector<Value>> silu_mul() const;
  Result<std::vector<Value>> add() const;  // ADD, ADD_RMS_NORM
  Result<std::vector<Value>> all_reduce() const;
  Result<std::vector<Value>> select_rows() const;

  Value output(int index, const Value& like) const {
    Value value = like;
    value.set_name(op_.outputs(index));
    return value;
  }

  const Op& op_;
  const std::vector<const Value*>& inputs_;
  const WeightTable& weights_;
  const engine::ModelConfig& config_;
};

std::string describe(const Value& value) {
  return value.name() + " [" + std::to_string(value.cols()) + " " + shard_axis_text(value.axis()) +
         (value.partial() ? " partial" : "") + (value.selected() ? " selected" : "") + "]";
}

Value make_value(int64_t cols, engine::ShardAxis axis, int64_t shard_unit) {
  Value value;
  value.set_cols(cols);
  value.set_axis(axis);
  value.set_shard_unit(shard_unit);
  return value;
}

Status Inference::arity(int num_inputs, int num_outputs, int num_weights, int max_biases) const {
  const auto mismatch = [&](const char* what, int got, int wanted) -> Status {
    return wrong("has " + std::to_string(got) + " " + what + ", needs " + std::to_string(wanted));
  };
  if (op_.inputs_size() != num_inputs) return mismatch("inputs", op_.inputs_size(), num_inputs);
  if (op_.outputs_size() != num_outputs)
    return mismatch("outputs", op_.outputs_size(), num_outputs);
  if (op_.weights_size() != num_weights)
    return mismatch("weights", op_.weights_size(), num_weights);
  if (op_.biases_size() > max_biases)
    return wrong("has " + std::to_string(op_.biases_size()) + " biases, at most " +
                 std::to_string(max_biases) + " are allowed");
  return {};
}

Status Inference::check_whole(const Value& value) const {
  if (value.axis() != engine::REPLICATED || value.partial())
    return wrong("reads " + describe(value) + ", but needs a whole (replicated, reduced) value");
  return {};
}

Result<const Weight*> Inference::vector_weight(const std::string& name, int64_t rows) const {
  const Weight* weight = weights_.find(name);
  if (weight == nullptr) return wrong("names the weight \"" + name + "\", which does not exist");
  if (weight->cols() != 0 || weight->rows() != rows)
    return wrong("weight " + name + " is [" + std::to_string(weight->rows()) +
                 (weight->cols() != 0 ? ", " + std::to_string(weight->cols()) : std::string()) +
                 "], must be a vector of " + std::to_string(rows));
  return weight;
}

Result<const Weight*> Inference::matrix_weight(const std::string& name) const {
  const Weight* weight = weights_.find(name);
  if (weight == nullptr) return wrong("names the weight \"" + name + "\", which does not exist");
  if (weight->cols() == 0) return wrong("weight " + name + " is a vector, must be a matrix");
  return weight;
}

Status Inference::check_bias(const std::string& name, const Weight& weight) const {
  PHALANX_ASSIGN_OR_RETURN(const Weight* bias, vector_weight(name, weight.rows()));
  if (bias->axis() != weight.axis() || bias->shard_unit() != weight.shard_unit())
    return wrong("bias " + name + " is cut by " + shard_axis_text(bias->axis()) +
                 ", its weight by " + shard_axis_text(weight.axis()));
  return {};
}

Status Inference::check_heads(const Value& value, engine::ShardAxis axis, int64_t num_heads) const {
  if (value.axis() != axis || value.partial() || value.selected() ||
      value.shard_unit() != config_.head_dim() || value.cols() != num_heads * config_.head_dim())
    return wrong("reads " + describe(value) + ", must be " + std::to_string(num_heads) +
                 " heads of " + std::to_string(config_.head_dim()) + " cut by " +
                 shard_axis_text(axis));
  return {};
}

Result<std::vector<Value>> Inference::embedding() const {
  PHALANX_RETURN_IF_ERROR(arity(0, 1, 1, 0));
  PHALANX_ASSIGN_OR_RETURN(const Weight* table, matrix_weight(op_.weights(0)));
  if (table->rows() != config_.vocab_size())
    return wrong("table " + table->name() + " has " + std::to_string(table->rows()) +
                 " rows, must be vocab_size " + std::to_string(config_.vocab_size()));
  if (table->axis() != engine::REPLICATED && table->axis() != engine::VOCAB)
    return wrong("table " + table->name() + " is cut by " + shard_axis_text(table->axis()) +
                 ", must be replicated or vocab");
  return std::vector<Value>{output(0, make_value(table->cols(), engine::REPLICATED, 1))};
}

Result<std::vector<Value>> Inference::rms_norm() const {
  PHALANX_RETURN_IF_ERROR(arity(1, 1, 1, 0));
  PHALANX_RETURN_IF_ERROR(check_whole(*inputs_[0]));
  PHALANX_RETURN_IF_ERROR(vector_weight(op_.weights(0), inputs_[0]->cols()));
  return std::vector<Value>{output(0, *inputs_[0])};
}

Result<std::vector<Value>> Inference::linear() const {
  const int count = op_.outputs_size();
  if (count < 1) return wrong("has no outputs");
  PHALANX_RETURN_IF_ERROR(arity(1, count, count, count));
  if (op_.biases_size() != count)
    return wrong("has " + std::to_string(op_.biases_size()) + " biases, needs one for each of " +
                 std::to_string(count) + " weights (\"\" for none)");
  const Value& x = *inputs_[0];
  std::vector<Value> outputs;
  const Weight* first = nullptr;
  for (int i = 0; i < count; ++i) {
    PHALANX_ASSIGN_OR_RETURN(const Weight* weight, matrix_weight(op_.weights(i)));
    if (weight->cols() != x.cols())
      return wrong("weight " + weight->name() + " has " + std::to_string(weight->cols()) +
                   " columns, its input is " + describe(x));
    const bool row = weight->axis() == engine::ROW;
    if (first == nullptr) first = weight;
    if (row != (first->axis() == engine::ROW) || weight->format() != first->format() ||
        weight->group_size() != first->group_size())
      return wrong("weights " + first->name() + " and " + weight->name() +
                   " differ in format, group size or row cut and cannot share one op");
    if (row) {
      if (x.axis() != engine::COLUMN || x.partial())
        return wrong("reads " + describe(x) + ", but weight " + weight->name() +
                     " is cut by row and needs a column-cut value");
      if (!op_.biases(i).empty())
        return wrong("bias " + op_.biases(i) +
                     " of a row-cut weight must be added after the all-reduce, by the ADD");
    } else {
      PHALANX_RETURN_IF_ERROR(check_whole(x));
      if (!op_.biases(i).empty()) PHALANX_RETURN_IF_ERROR(check_bias(op_.biases(i), *weight));
    }
    Value value = make_value(weight->rows(), row ? engine::REPLICATED : weight->axis(),
                             row ? 1 : weight->shard_unit());
    value.set_partial(row);
    value.set_selected(x.selected());
    outputs.push_back(output(i, value));
  }
  return outputs;
}

Result<std::vector<Value>> Inference::head_wise() const {
  const bool norm = op_.kind() == engine::HEAD_NORM;
  PHALANX_RETURN_IF_ERROR(arity(1, 1, norm ? 1 : 0, 0));
  const Value& x = *inputs_[0];
  if ((x.axis() != engine::COLUMN && x.axis() != engine::KV_COLUMN) || x.partial() ||
      x.shard_unit() != config_.head_dim() || x.cols() % config_.head_dim() != 0)
    return wrong("reads " + describe(x) + ", must be heads of " +
                 std::to_string(config_.head_dim()) + " cut by column or kv_column");
  if (norm) PHALANX_RETURN_IF_ERROR(vector_weight(op_.weights(0), config_.head_dim()));
  return std::vector<Value>{output(0, x)};
}

Result<std::vector<Value>> Inference::attention() const {
  PHALANX_RETURN_IF_ERROR(arity(3, 1, 0, 0));
  if (op_.layer() < 0 || op_.layer() >= config_.num_hidden_layers())
    return wrong("is in layer " + std::to_string(op_.layer()) + " of " +
                 std::to_string(config_.num_hidden_layers()));
  PHALANX_RETURN_IF_ERROR(check_heads(*inputs_[0], engine::COLUMN, config_.num_attention_heads()));
  PHALANX_RETURN_IF_ERROR(
      check_heads(*inputs_[1], engine::KV_COLUMN, config_.num_key_value_heads()));
  PHALANX_RETURN_IF_ERROR(
      check_heads(*inputs_[2], engine::KV_COLUMN, config_.num_key_value_heads()));
  return std::vector<Value>{output(0, *inputs_[0])};
}

Result<std::vector<Value>> Inference::silu_mul() const {
  PHALANX_RETURN_IF_ERROR(arity(2, 1, 0, 0));
  const Value& gate = *inputs_[0];
  const Value& up = *inputs_[1];
  if (gate.cols() != up.cols() || gate.axis() != up.axis() ||
      gate.shard_unit() != up.shard_unit() || gate.partial() || up.partial() ||
      gate.selected() != up.selected())
    return wrong("reads " + describe(gate) + " and " + describe(up) +
                 ", which must be whole and of one shape");
  return std::vector<Value>{output(0, gate)};
}

Result<std::vector<Value>> Inference::add() const {
  const bool norm = op_.kind() == engine::ADD_RMS_NORM;
  PHALANX_RETURN_IF_ERROR(arity(2, norm ? 2 : 1, norm ? 1 : 0, 1));
  const Value& residual = *inputs_[0];
  const Value& delta = *inputs_[1];
  PHALANX_RETURN_IF_ERROR(check_whole(residual));
  if (delta.axis() != engine::REPLICATED || delta.cols() != residual.cols() ||
      delta.selected() != residual.selected())
    return wrong("adds " + describe(delta) + " to " + describe(residual));
  for (const std::string& bias : op_.biases()) {
    if (bias.empty()) return wrong("has an empty bias name; leave the bias out");
    PHALANX_ASSIGN_OR_RETURN(const Weight* weight, vector_weight(bias, residual.cols()));
    if (weight->axis() != engine::REPLICATED)
      return wrong("bias " + bias + " is cut by " + shard_axis_text(weight->axis()) +
                   ", must be replicated");
  }
  std::vector<Value> outputs{output(0, residual)};
  if (norm) {
    PHALANX_RETURN_IF_ERROR(vector_weight(op_.weights(0), residual.cols()));
    outputs.push_back(output(1, residual));
  }
  return outputs;
}

Result<std::vector<Value>> Inference::all_reduce() const {
  PHALANX_RETURN_IF_ERROR(arity(1, 1, 0, 0));
  if (!inputs_[0]->partial())
    return wrong("reads " + describe(*inputs_[0]) + ", which is not partial");
  Value whole = output(0, *inputs_[0]);
  whole.set_partial(false);
  return std::vector<Value>{whole};
}

Result<std::vector<Value>> Inference::select_rows() const {
  PHALANX_RETURN_IF_ERROR(arity(1, 1, 0, 0));
  PHALANX_RETURN_IF_ERROR(check_whole(*inputs_[0]));
  if (inputs_[0]->selected())
    return wrong("reads " + describe(*inputs_[0]) + ", whose rows were selected before");
  Value selected = output(0, *inputs_[0]);
  selected.set_selected(true);
  return std::vector<Value>{selected};
}

Result<std::vector<Value>> Inference::run() {
  switch (op_.kind()) {
    case engine::EMBEDDING:
      return embedding();
    case engine::RMS_NORM:
      return rms_norm();
    case engine::LINEAR:
      return linear();
    case engine::HEAD_NORM:
    case engine::ROPE:
      return head_wise();
    case engine::ATTENTION:
      return attention();
    case engine::SILU_MUL:
      return silu_mul();
    case engine::ADD:
    case engine::ADD_RMS_NORM:
      return add();
    case engine::ALL_REDUCE:
      return all_reduce();
    case engine::SELECT_ROWS:
      return select_rows();
    case engine::OP_UNSPECIFIED:
    case engine::OpKind_INT_MIN_SENTINEL_DO_NOT_USE_:
    case engine::OpKind_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return wrong("is of an unknown kind " + std::to_string(static_cast<int>(op_.kind())));
}

}  // namespace

WeightTable::WeightTable(const std::vector<Weight>& weights) {
  for (const Weight& weight : weights) weights_.emplace(weight.name(), &weight);
}

WeightTable::WeightTable(const google::protobuf::RepeatedPtrField<Weight>& weights) {
  for (const Weight& weight : weights) weights_.emplace(weight.name(), &weight);
}

const Weight* WeightTable::find(const std::string& name) const {
  const auto found = weights_.find(name);
  return found == weights_.end() ? nullptr : found->second;
}

const char* op_kind_name(engine::OpKind kind) {
  switch (kind) {
    case engine::EMBEDDING:
      return "embedding";
    case engine::RMS_NORM:
      return "rms_norm";
    case engine::LINEAR:
      return "linear";
    case engine::HEAD_NORM:
      return "head_norm";
    case engine::ROPE:
      return "rope";
    case engine::ATTENTION:
      return "attention";
    case engine::SILU_MUL:
      return "silu_mul";
    case engine::ADD:
      return "add";
    case engine::ADD_RMS_NORM:
      return "add_rms_norm";
    case engine::ALL_REDUCE:
      return "all_reduce";
    case engine::SELECT_ROWS:
      return "select_rows";
    case engine::OP_UNSPECIFIED:
    case engine::OpKind_INT_MIN_SENTINEL_DO_NOT_USE_:
    case engine::OpKind_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return "unknown";
}

const char* shard_axis_text(engine::ShardAxis axis) {
  switch (axis) {
    case engine::REPLICATED:
      return "replicated";
    case engine::COLUMN:
      return "column";
    case engine::ROW:
      return "row";
    case engine::KV_COLUMN:
      return "kv_column";
    case engine::VOCAB:
      return "vocab";
    case engine::ShardAxis_INT_MIN_SENTINEL_DO_NOT_USE_:
    case engine::ShardAxis_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return "unknown";
}

const char* weight_format_text(engine::WeightFormat format) {
  switch (format) {
    case engine::F32:
      return "f32";
    case engine::BF16:
      return "bf16";
    case engine::W8:
      return "w8";
    case engine::W4:
      return "w4";
    case engine::FP8:
      return "fp8";
    case engine::WeightFormat_INT_MIN_SENTINEL_DO_NOT_USE_:
    case engine::WeightFormat_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return "unknown";
}

int in_place_input(engine::OpKind kind) {
  switch (kind) {
    case engine::HEAD_NORM:
    case engine::ROPE:
    case engine::ADD:
    case engine::ADD_RMS_NORM:
    case engine::ALL_REDUCE:
      return 0;
    case engine::EMBEDDING:
    case engine::RMS_NORM:
    case engine::LINEAR:
    case engine::ATTENTION:
    case engine::SILU_MUL:
    case engine::SELECT_ROWS:
    case engine::OP_UNSPECIFIED:
    case engine::OpKind_INT_MIN_SENTINEL_DO_NOT_USE_:
    case engine::OpKind_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return -1;
}

Result<std::vector<Value>> infer_outputs(const Op& op, const std::vector<const Value*>& inputs,
                                         const WeightTable& weights,
                                         const engine::ModelConfig& config) {
  if (static_cast<int>(inputs.size()) != op.inputs_size())
    return invalid_argument("op " + op.name() + ": inputs are missing");
  return Inference(op, inputs, weights, config).run();
}

}  // namespace phalanx::model
