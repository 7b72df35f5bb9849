// Loads a rank's slices and interprets its ops.
#include "runtime/executor/graph_executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/base/check.h"
#include "runtime/model/graph_shapes.h"

namespace phalanx {
namespace {

using engine::Op;
using parallel::Progress;

kernels::MatrixSource whole_matrix(const model::MatrixView& view) {
  kernels::MatrixSource source;
  source.format = kernel_format(view.format);
  source.num_rows = view.rows;
  source.num_cols = view.cols;
  source.codes = view.codes;
  source.row_stride_bytes = view.row_stride_bytes;
  source.scales = view.scales;
  source.scale_dtype = view.scale_dtype;
  source.scale_row_stride = view.scale_row_stride;
  source.zeros = view.zeros;
  source.group_size = view.group_size;
  return source;
}

int64_t code_offset_bytes(kernels::WeightFormat format, int64_t col) {
  switch (format) {
    case kernels::WeightFormat::kF32:
      return col * 4;
    case kernels::WeightFormat::kBf16:
      return col * 2;
    case kernels::WeightFormat::kW8:
      return col;
    case kernels::WeightFormat::kW4:
      return col / 2;
  }
  return 0;
}

kernels::MatrixSource slice_matrix(const model::MatrixView& view, const MatrixSlice& slice) {
  kernels::MatrixSource source = whole_matrix(view);
  source.num_rows = slice.row_end - slice.row_begin;
  source.num_cols = slice.col_end - slice.col_begin;
  source.codes +=
      slice.row_begin * view.row_stride_bytes + code_offset_bytes(source.format, slice.col_begin);
  if (source.group_size > 0) {
    PHALANX_CHECK_EQ(slice.col_begin % source.group_size, 0,
                     "a slice begins inside a group of " + slice.weight);
    const int64_t first =
        slice.row_begin * view.scale_row_stride + slice.col_begin / source.group_size;
    source.scales += first * static_cast<int64_t>(dtype_bytes(view.scale_dtype));
    if (source.zeros != nullptr) source.zeros += first;
  }
  return source;
}

/// Marks the rank as waiting for a peer while in scope.
class WaitingScope {
 public:
  explicit WaitingScope(Progress& progress) : progress_(progress) {
    progress_.set_state(Progress::State::kWaiting);
  }
  ~WaitingScope() { progress_.set_state(Progress::State::kBusy); }
  WaitingScope(const WaitingScope&) = delete;
  WaitingScope& operator=(const WaitingScope&) = delete;

 private:
  Progress& progress_;
};

}  // namespace

GraphExecutor::GraphExecutor(std::shared_ptr<const model::EngineFile> engine,
                             const parallel::RankTopology& topology, const ExecutorOptions& options,
                             const ExecutorGroups& groups, kernels::Operators& operators,
                             Progress& progress)
    : engine_(std::move(engine)),
      topology_(topology),
      options_(options),
      groups_(groups),
      operators_(operators),
      progress_(progress),
      plan_(make_stage_plan(engine_->manifest(), topology, options.limits)),
      kv_cache_({options.kv_format, plan_.last_layer - plan_.first_layer, plan_.num_kv_heads,
                 engine_->manifest().model().head_dim(), options.num_kv_blocks},
                operators) {
  load_weights();
  make_rope_table();
  arena_ = operators_.allocate(plan_.arena_bytes);
  conversion_ = operators_.allocate(std::max<int64_t>(plan_.conversion_bytes, 64));
  if (plan_.logits_bytes > 0) logits_memory_ = operators_.allocate(plan_.logits_bytes);
}

int64_t GraphExecutor::vocab_size() const { return engine_->manifest().model().vocab_size(); }

void GraphExecutor::load_weights() {
  for (const Op& op : plan_.ops) {
    if (op.kind() != engine::LINEAR) continue;
    const LinearPlan& linear = plan_.linears.at(op.name());
    if (linear.num_rows == 0) continue;  // a vocabulary smaller than the ranks that share it
    progress_.set_operation("pack weights", op.layer());
    kernels::MatrixSpec spec;
    spec.num_lanes = linear.num_lanes;
    std::vector<float> bias;
    for (const MatrixSlice& slice : linear.slices) {
      spec.sources.push_back(slice_matrix(engine_->matrix(slice.weight), slice));
      if (!linear.has_bias) continue;
      if (slice.bias.empty()) {
        bias.resize(bias.size() + static_cast<size_t>(slice.row_end - slice.row_begin), 0.0F);
      } else {
        const auto stored = engine_->vector(slice.bias);
        bias.insert(bias.end(), stored.begin() + slice.row_begin, stored.begin() + slice.row_end);
      }
    }
    if (linear.has_bias) spec.bias = bias.data();
    matrices_[op.name()] = operators_.pack_matrix(spec);
  }
}

void GraphExecutor::make_rope_table() {
  const engine::Rope& rope = engine_->manifest().model().rope();
  const std::vector<double> frequencies = model::rope_inverse_frequencies(rope);
  const auto half = static_cast<int64_t>(frequencies.size());
  const int64_t positions = options_.limits.max_positions;
  rope_memory_ = operators_.allocate(plan_.rope_bytes);
  auto* cosines = reinterpret_cast<float*>(rope_memory_.get());
  float* sines = cosines + plan_.rope_bytes / 8;
  for (int64_t p = 0; p < positions; ++p) {
    if (p % 1024 == 0) progress_.set_operation("rope table");
    for (int64_t i = 0; i < half; ++i) {
      // The frequency is rounded to float first, as the checkpoints' reference implementation does.
      const float angle =
          static_cast<float>(p) * static_cast<float>(frequencies[static_cast<size_t>(i)]);
      cosines[p * half + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sines[p * half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  rope_ = {cosines, sines, rope.rotary_dim(), positions};
}

std::span<const float> GraphExecutor::vector_weight(const std::string& name) const {
  return engine_->vector(name);
}

kernels::Rows GraphExecutor::rows_of(const std::string& value) const {
  const Placement& place = plan_.placements.at(value);
  return {reinterpret_cast<float*>(arena_.get() + place.offset_bytes) + place.column, place.stride};
}

kernels::Rows GraphExecutor::run(const StepBatch& batch) {
  const auto num_rows = static_cast<int64_t>(batch.positions.size());
  const auto num_sampled = static_cast<int64_t>(batch.sampled_rows.size());
  PHALANX_CHECK_LE(num_rows, options_.limits.max_rows, "rows of a step");
  PHALANX_CHECK_LE(num_sampled, options_.limits.max_sequences, "sampled rows of a step");
  converted_.clear();
  if (!topology_.is_first_stage()) receive_input(num_rows);
  for (const Op& op : plan_.ops) {
    if (op.kind() == engine::SELECT_ROWS && num_sampled == 0) return {};
    progress_.set_operation(model::op_kind_name(op.kind()), op.layer());
    run_op(op, batch);
  }
  if (!topology_.is_last_stage()) {
    send_output(num_rows);
    return {};
  }
  return gather_logits(num_sampled);
}

void GraphExecutor::run_op(const Op& op, const StepBatch& batch) {
  const Placement& out = plan_.placements.at(op.outputs(0));
  const auto num_rows =
      static_cast<int64_t>(out.selected ? batch.sampled_rows.size() : batch.positions.size());
  const kernels::Rows y = rows_of(op.outputs(0));
  const auto eps = static_cast<float>(op.eps());
  switch (op.kind()) {
    case engine::EMBEDDING:
      operators_.embedding(whole_matrix(engine_->matrix(op.weights(0))), batch.token_ids, y);
      break;
    case engine::RMS_NORM:
      operators_.rms_norm(rows_of(op.inputs(0)), vector_weight(op.weights(0)).data(), eps, num_rows,
                          out.cols, y);
      break;
    case engine::LINEAR:
      run_linear(op, num_rows);
      break;
    case engine::HEAD_NORM: {
      const int64_t head_dim = engine_->manifest().model().head_dim();
      operators_.head_norm(y, out.cols / head_dim, head_dim, vector_weight(op.weights(0)).data(),
                           eps, num_rows);
      break;
    }
    case engine::ROPE: {
      const int64_t head_dim = engine_->manifest().model().head_dim();
      operators_.rope(y, out.cols / head_dim, head_dim, rope_, batch.positions);
      break;
    }
    case engine::ATTENTION:
      run_attention(op, batch);
      break;
    case engine::SILU_MUL:
      operators_.silu_mul(rows_of(op.inputs(0)), rows_of(op.inputs(1)), num_rows, out.cols, y);
      break;
    case engine::ADD:
      operators_.add_rows(y, rows_of(op.inputs(1)), bias_of(op), num_rows, out.cols);
      break;
    case engine::ADD_RMS_NORM:
      operators_.add_rms_norm(y, rows_of(op.inputs(1)), bias_of(op),
                              vector_weight(op.weights(0)).data(), eps, num_rows, out.cols,
                              rows_of(op.outputs(1)));
      break;
    case engine::ALL_REDUCE: {
      PHALANX_CHECK_EQ(out.stride, out.cols, "all_reduce needs contiguous rows");
      const WaitingScope waiting(progress_);
      groups_.tensor->all_reduce_sum({y.data, static_cast<size_t>(num_rows * out.cols)});
      break;
    }
    case engine::SELECT_ROWS:
      operators_.gather_rows(rows_of(op.inputs(0)), batch.sampled_rows, out.cols, y);
      break;
    default:  // protobuf enums are open; verify_graph refused unknown kinds
      PHALANX_CHECK(false, "op kind of " + op.name());
  }
  // An in-place op changes what `conversion_` was made from under a new name, so names suffice; but
  // arena memory is reused, so a value that ended must not be taken for converted.
  if (op.kind() != engine::LINEAR) converted_.clear();
}

const float* GraphExecutor::bias_of(const Op& op) const {
  return op.biases_size() > 0 && !op.biases(0).empty() ? vector_weight(op.biases(0)).data()
                                                       : nullptr;
}

void GraphExecutor::run_linear(const Op& op, int64_t num_rows) {
  const auto found = matrices_.find(op.name());
  if (found == matrices_.end()) return;  // no outputs on this rank
  const kernels::PackedMatrix& matrix = *found->second;
  const kernels::ActivationForm form = kernels::activation_form(matrix.format());
  const std::string& input = op.inputs(0);
  const bool converted = converted_ == input && converted_view_.form == form &&
                         converted_view_.group_size == matrix.group_size();
  if (!converted) {
    converted_view_ = kernels::make_activation_view(form, num_rows, matrix.num_cols(),
                                                    matrix.group_size(), conversion_.get());
    operators_.convert_rows(rows_of(input), num_rows, converted_view_);
    converted_ = input;
  }
  operators_.linear(matrix, converted_view_, num_rows, rows_of(op.outputs(0)));
}

void GraphExecutor::run_attention(const Op& op, const StepBatch& batch) {
  const int64_t head_dim = engine_->manifest().model().head_dim();
  const kernels::KvLayerView& kv = kv_cache_.layer(op.layer() - plan_.first_layer);
  operators_.write_kv(rows_of(op.inputs(1)), rows_of(op.inputs(2)), batch.sequences, kv);
  kernels::AttentionParams params;
  params.num_query_heads = plan_.num_query_heads;
  params.kv_head_of_query = plan_.kv_head_of_query.data();
  params.scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  params.sliding_window = engine_->manifest().model().sliding_window();
  operators_.attention(rows_of(op.inputs(0)), batch.sequences, kv, params, rows_of(op.outputs(0)));
}

void GraphExecutor::receive_input(int64_t num_rows) {
  const Placement& place = plan_.placements.at(plan_.input);
  progress_.set_operation("receive from the stage before");
  const WaitingScope waiting(progress_);
  groups_.pipeline->recv(
      std::as_writable_bytes(std::span<float>(rows_of(plan_.input).data,
                                              static_cast<size_t>(num_rows * place.stride))),
      topology_.pp_rank() - 1);
}

void GraphExecutor::send_output(int64_t num_rows) {
  const Placement& place = plan_.placements.at(plan_.output);
  PHALANX_CHECK_EQ(place.stride, place.cols, "a stage sends contiguous rows");
  progress_.set_operation("send to the next stage");
  const WaitingScope waiting(progress_);
  groups_.pipeline->send(
      std::as_bytes(std::span<const float>(rows_of(plan_.output).data,
                                           static_cast<size_t>(num_rows * place.stride))),
      topology_.pp_rank() + 1);
}

kernels::Rows GraphExecutor::gather_logits(int64_t num_rows) {
  const kernels::Rows local = rows_of(plan_.output);
  if (topology_.tp_size == 1) return local;
  const Placement& place = plan_.placements.at(plan_.output);
  std::vector<size_t> part_bytes;
  std::vector<int64_t> part_cols;
  for (int rank = 0; rank < topology_.tp_size; ++rank) {
    part_cols.push_back(
        model::shard_range(engine::VOCAB, vocab_size(), 1, topology_.tp_size, rank).size());
    part_bytes.push_back(static_cast<size_t>(num_rows * part_cols.back() * 4));
  }
  const std::span<const std::byte> part =
      std::as_bytes(std::span<const float>(local.data, static_cast<size_t>(num_rows * place.cols)));
  progress_.set_operation("gather logits");
  if (!topology_.is_sampler()) {
    const WaitingScope waiting(progress_);
    groups_.tensor->gather(part, part_bytes, {}, 0);
    return {};
  }
  auto* gathered = reinterpret_cast<float*>(logits_memory_.get());
  float* rows = gathered + plan_.logits_bytes / 8;
  {
    const WaitingScope waiting(progress_);
    groups_.tensor->gather(part, part_bytes,
                           std::as_writable_bytes(std::span<float>(
                               gathered, static_cast<size_t>(num_rows * vocab_size()))),
                           0);
  }
  int64_t column = 0;
  for (const int64_t cols : part_cols) {  // [rank][row][cols] to [row][vocab]
    for (int64_t row = 0; row < num_rows; ++row) {
      std::memcpy(rows + row * vocab_size() + column, gathered, static_cast<size_t>(cols) * 4);
      gathered += cols;
    }
    column += cols;
  }
  return {rows, vocab_size()};
}

}  // namespace phalanx
