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

kernels::Rows rows_from(kernels::Rows rows, int64_t first_row) {
  return {rows.data + first_row * rows.stride, rows.stride};
}

/// The view of rows [first_row, ...) of a view.
kernels::ActivationView view_from(const kernels::ActivationView& view, int64_t first_row) {
  kernels::ActivationView rows = view;
  rows.codes += first_row * view.num_cols * kernels::activation_code_bytes(view.form);
  if (view.form == kernels::ActivationForm::kS8) {
    rows.scales += first_row * (view.num_cols / view.group_size);
    rows.sums += first_row * (view.num_cols / view.group_size);
  }
  return rows;
}

void copy_rows(kernels::ConstRows from, kernels::Rows to, int64_t first_row, int64_t last_row,
               int64_t num_cols) {
  for (int64_t r = first_row; r < last_row; ++r) {
    std::memcpy(to.data + r * to.stride, from.data + r * from.stride,
                static_cast<size_t>(num_cols) * sizeof(float));
  }
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
  make_rope_table();
  arena_ = operators_.allocate(plan_.arena_bytes);
  conversion_ = operators_.allocate(std::max<int64_t>(plan_.conversion_bytes, 64));
  gated_rows_ = operators_.allocate(std::max<int64_t>(plan_.gated_bytes, 64));
  if (plan_.logits_bytes > 0) logits_memory_ = operators_.allocate(plan_.logits_bytes);
  lend_parts();
  bind_ops();
  share_out_vocabulary();
}

int64_t GraphExecutor::vocab_size() const { return engine_->manifest().model().vocab_size(); }

std::unique_ptr<kernels::PackedMatrix> GraphExecutor::pack(const Op& op) {
  const LinearPlan& linear = plan_.linears.at(op.name());
  if (linear.num_rows == 0) return nullptr;  // a vocabulary smaller than the ranks that share it
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
  auto matrix = operators_.pack_matrix(spec);
  engine_->release_pages();
  return matrix;
}

void GraphExecutor::bind_ops() {
  ops_.reserve(plan_.ops.size());
  for (const Op& op : plan_.ops) {
    BoundOp bound;
    bound.op = &op;
    for (const std::string& name : op.inputs()) {
      bound.inputs.push_back(rows_of(plan_.placements.at(name)));
    }
    for (const std::string& name : op.outputs()) {
      bound.outputs.push_back(rows_of(plan_.placements.at(name)));
    }
    if (op.inputs_size() > 0) bound.input = &plan_.placements.at(op.inputs(0));
    bound.output = &plan_.placements.at(op.outputs(0));
    if (const auto reduce = plan_.reduces.find(op.name()); reduce != plan_.reduces.end())
      bound.reduce = &reduce->second;
    if (const auto gated = plan_.gated.find(op.name()); gated != plan_.gated.end())
      bound.gated = &gated->second;
    if (op.kind() == engine::LINEAR) {
      bound.matrix = pack(op);
    } else if (op.kind() == engine::EMBEDDING) {
      bound.table = whole_matrix(engine_->matrix(op.weights(0)));
    } else {
      if (op.weights_size() > 0) bound.weight = engine_->vector(op.weights(0)).data();
      if (op.biases_size() > 0 && !op.biases(0).empty()) {
        bound.bias = engine_->vector(op.biases(0)).data();
      }
    }
    ops_.push_back(std::move(bound));
  }
}

void GraphExecutor::share_out_vocabulary() {
  for (int rank = 0; rank < topology_.tp_size; ++rank) {
    logits_cols_.push_back(
        model::shard_range(engine::VOCAB, vocab_size(), 1, topology_.tp_size, rank).size());
  }
  logits_bytes_.resize(logits_cols_.size());
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

kernels::Rows GraphExecutor::rows_of(const Placement& place) const {
  if (place.is_part) return {nullptr, place.stride};  // part_of() knows, step by step
  if (place.is_converted) return {nullptr, place.stride};
  return {reinterpret_cast<float*>(arena_.get() + place.offset_bytes) + place.column, place.stride};
}

kernels::Rows GraphExecutor::run(const StepBatch& batch) {
  const auto num_rows = static_cast<int64_t>(batch.positions.size());
  const auto num_sampled = static_cast<int64_t>(batch.sampled_rows.size());
  PHALANX_CHECK_LE(num_rows, options_.limits.max_rows, "rows of a step");
  PHALANX_CHECK_LE(num_sampled, options_.limits.max_sequences, "sampled rows of a step");
  converted_ = nullptr;
  shares_rows_ = is_worth_sharing(num_rows);
  if (!topology_.is_first_stage()) receive_input(num_rows);
  operators_.begin();
  for (const BoundOp& bound : ops_) {
    if (bound.op->kind() == engine::SELECT_ROWS && num_sampled == 0) {
      operators_.finish();
      return {};
    }
    progress_.set_operation(model::op_kind_name(bound.op->kind()), bound.op->layer());
    run_op(bound, batch);
  }
  operators_.finish();
  if (!topology_.is_last_stage()) {
    send_output(num_rows);
    return {};
  }
  return gather_logits(num_sampled);
}

void GraphExecutor::run_op(const BoundOp& bound, const StepBatch& batch) {
  const Op& op = *bound.op;
  const Placement& out = *bound.output;
  const auto num_rows =
      static_cast<int64_t>(out.selected ? batch.sampled_rows.size() : batch.positions.size());
  const kernels::Rows y = bound.outputs[0];
  const auto eps = static_cast<float>(op.eps());
  const int64_t head_dim = engine_->manifest().model().head_dim();
  // An in-place op changes what `conversion_` was made from under a new name, so the value's
  // placement suffices; but arena memory is reused, so a value that ended must not be taken for
  // converted.
  if (op.kind() != engine::LINEAR) converted_ = nullptr;
  if (bound.reduce != nullptr) {
    run_reduce(bound, num_rows);
    return;
  }
  switch (op.kind()) {
    case engine::EMBEDDING:
      operators_.embedding(bound.table, batch.token_ids, y);
      break;
    case engine::RMS_NORM:
      operators_.rms_norm(bound.inputs[0], bound.weight, eps, num_rows, out.cols, y);
      break;
    case engine::LINEAR:
      run_linear(bound, num_rows);
      break;
    case engine::HEAD_NORM:
      operators_.head_norm(y, out.cols / head_dim, head_dim, bound.weight, eps, num_rows);
      break;
    case engine::ROPE:
      operators_.rope(y, out.cols / head_dim, head_dim, rope_, batch.positions);
      break;
    case engine::ATTENTION:
      run_attention(bound, batch);
      break;
    case engine::SILU_MUL:
      operators_.silu_mul(bound.inputs[0], bound.inputs[1], num_rows, out.cols, y);
      break;
    case engine::ADD:
      operators_.add_rows(y, bound.inputs[1], bound.bias, num_rows, out.cols);
      break;
    case engine::ADD_RMS_NORM:
      operators_.add_rms_norm(y, bound.inputs[1], bound.bias, bound.weight, eps, num_rows, out.cols,
                              bound.outputs[1]);
      break;
    case engine::ALL_REDUCE: {
      PHALANX_CHECK_EQ(out.stride, out.cols, "all_reduce needs contiguous rows");
      operators_.finish();
      const WaitingScope waiting(progress_);
      groups_.tensor->all_reduce_sum({y.data, static_cast<size_t>(num_rows * out.cols)});
      operators_.begin();
      break;
    }
    case engine::SELECT_ROWS:
      operators_.gather_rows(bound.inputs[0], batch.sampled_rows, out.cols, y);
      break;
    default:  // protobuf enums are open; verify_graph refused unknown kinds
      PHALANX_CHECK(false, "op kind of " + op.name());
  }
}

void GraphExecutor::run_linear(const BoundOp& bound, int64_t num_rows) {
  if (bound.matrix == nullptr) return;
  const kernels::PackedMatrix& matrix = *bound.matrix;
  const kernels::ActivationForm form = kernels::activation_form(matrix.format());
  const bool converted = converted_ == bound.input && converted_view_.form == form &&
                         converted_view_.group_size == matrix.group_size();
  if (!converted) {
    converted_view_ = kernels::make_activation_view(form, num_rows, matrix.num_cols(),
                                                    matrix.group_size(), conversion_.get());
    operators_.convert_rows(bound.inputs[0], num_rows, converted_view_);
    converted_ = bound.input;
  }
  if (bound.gated != nullptr) {
    const kernels::ActivationView view =
        kernels::make_activation_view(bound.gated->form, num_rows, bound.output->cols,
                                      bound.gated->group_size, gated_rows_.get());
    operators_.gated_linear(matrix, converted_view_, num_rows, view);
    converted_view_ = view;
    converted_ = bound.output;
    return;
  }
  const kernels::Rows y = bound.output->is_part ? part_of(topology_.tp_rank()) : bound.outputs[0];
  operators_.linear(matrix, converted_view_, num_rows, y);
}

void GraphExecutor::lend_parts() {
  if (plan_.reduces.empty()) return;
  progress_.set_operation("share memory");
  const auto tp_size = static_cast<size_t>(topology_.tp_size);
  parts_.reserve(tp_size);
  part_regions_ = groups_.tensor->share_memory(static_cast<size_t>(plan_.part_bytes()));
  if (part_regions_.empty()) {
    private_part_ = operators_.allocate(std::max(plan_.long_part_bytes, plan_.short_part_bytes));
    return;
  }
  if (plan_.shared_conversion_bytes == 0) return;
  // The regions of a group follow one another: together they hold all rows.
  const auto bytes = static_cast<size_t>(plan_.shared_conversion_bytes);
  shared_conversion_ = groups_.tensor->share_memory((bytes + tp_size - 1) / tp_size).front();
}

bool GraphExecutor::is_worth_sharing(int64_t num_rows) const {
  if (!plan_.can_share_rows || part_regions_.empty() || num_rows < topology_.tp_size) return false;
  const int64_t unshared_bytes = options_.unshared_bytes.value_or(
      static_cast<int64_t>(groups_.tensor->bytes_worth_a_meeting()));
  return num_rows * plan_.part_cols * 4 > std::min(unshared_bytes, kMaxUnsharedBytes);
}

kernels::Rows GraphExecutor::part_of(int tp_rank) const {
  std::byte* part = private_part_.get();
  if (!part_regions_.empty()) {
    part = part_regions_[static_cast<size_t>(tp_rank)];
    if (!shares_rows_) part += plan_.long_part_bytes + part_turn_ * plan_.short_part_bytes;
  }
  return {reinterpret_cast<float*>(part), plan_.part_cols};
}

/// Rows [first, last) of a rank in a step whose ranks share rows: the same in every reduce.
std::pair<int64_t, int64_t> GraphExecutor::row_share(int tp_rank, int64_t num_rows) const {
  const int64_t granule = plan_.row_granule;
  const int64_t granules = (num_rows + granule - 1) / granule;
  const auto edge = [&](int64_t rank) {
    return std::min(num_rows, granules * rank / topology_.tp_size * granule);
  };
  return {edge(tp_rank), edge(tp_rank + 1)};
}

void GraphExecutor::meet(const BoundOp& bound) {
  progress_.set_operation("all_reduce", bound.op->layer());
  {
    const WaitingScope waiting(progress_);
    groups_.tensor->meet();
  }
  progress_.set_operation(model::op_kind_name(bound.op->kind()), bound.op->layer());
}

// Where peers can read each other's parts, a rank meets them and reads; else the parts are summed
// in place, by messages, and what is read is the one sum.
void GraphExecutor::run_reduce(const BoundOp& bound, int64_t num_rows) {
  operators_.finish();
  parts_.clear();
  if (part_regions_.empty()) {
    const kernels::Rows part = part_of(topology_.tp_rank());
    progress_.set_operation("all_reduce", bound.op->layer());
    {
      const WaitingScope waiting(progress_);
      groups_.tensor->all_reduce_sum({part.data, static_cast<size_t>(num_rows * part.stride)});
    }
    parts_.push_back(part.data);
  } else {
    meet(bound);
    for (int rank = 0; rank < topology_.tp_size; ++rank) parts_.push_back(part_of(rank).data);
    if (shares_rows_) {
      reduce_own_rows(bound, num_rows);
      return;
    }
  }
  operators_.begin();
  add_parts(bound, 0, num_rows, bound.outputs.back());
  part_turn_ = 1 - part_turn_;
}

/// The op for some rows; y: of an ADD_RMS_NORM, where row 0's norm goes.
void GraphExecutor::add_parts(const BoundOp& bound, int64_t first_row, int64_t num_rows,
                              kernels::Rows y) {
  const int64_t num_cols = bound.output->cols;
  const kernels::PartRows delta{parts_, plan_.part_cols};
  const kernels::Rows residual = rows_from(bound.outputs[0], first_row);
  for (const float*& part : parts_) part += first_row * plan_.part_cols;
  if (bound.op->kind() == engine::ADD) {
    operators_.add_rows_of_parts(residual, delta, bound.bias, num_rows, num_cols);
  } else {
    operators_.add_rms_norm_of_parts(residual, delta, bound.bias, bound.weight,
                                     static_cast<float>(bound.op->eps()), num_rows, num_cols,
                                     rows_from(y, first_row));
  }
}

// A rank changes only its own rows of the residual, here as in all reduces of the step, and hands
// around what others need of them. Nobody reads a row of a part but its owner, who may thus put
// there what takes the row's place.
void GraphExecutor::reduce_own_rows(const BoundOp& bound, int64_t num_rows) {
  using Readers = FusedReduce::Readers;
  const FusedReduce& reduce = *bound.reduce;
  const int64_t num_cols = bound.output->cols;
  const auto [first, last] = row_share(topology_.tp_rank(), num_rows);
  const kernels::Rows own_part = part_of(topology_.tp_rank());
  const bool hands_norm = reduce.norm == Readers::kSomeOther;
  const bool hands_residual = reduce.residual == Readers::kSomeOther;
  kernels::ActivationView view;
  if (reduce.norm == Readers::kLinears)
    view = kernels::make_activation_view(reduce.form, num_rows, num_cols, reduce.group_size,
                                         shared_conversion_);
  operators_.begin();
  if (first < last) {
    const kernels::Rows y = hands_norm ? own_part : bound.outputs.back();
    add_parts(bound, first, last - first, y);
    if (reduce.norm == Readers::kLinears)
      operators_.convert_rows(rows_from(y, first), last - first, view_from(view, first));
  }
  operators_.finish();
  if (hands_residual) copy_rows(bound.outputs[0], own_part, first, last, num_cols);
  meet(bound);
  if (reduce.norm == Readers::kLinears) {
    converted_view_ = view;
    converted_ = &plan_.placements.at(bound.op->outputs(1));
  }
  if (hands_norm || hands_residual) {
    const kernels::Rows target = hands_norm ? bound.outputs.back() : bound.outputs[0];
    for (int rank = 0; rank < topology_.tp_size; ++rank) {
      const auto [begin, end] = row_share(rank, num_rows);
      if (hands_norm || rank != topology_.tp_rank())
        copy_rows(part_of(rank), target, begin, end, num_cols);
    }
    meet(bound);  // the parts may be written again
  }
  operators_.begin();
}

void GraphExecutor::run_attention(const BoundOp& bound, const StepBatch& batch) {
  const int64_t head_dim = engine_->manifest().model().head_dim();
  const kernels::KvLayerView& kv = kv_cache_.layer(bound.op->layer() - plan_.first_layer);
  operators_.write_kv(bound.inputs[1], bound.inputs[2], batch.sequences, kv);
  kernels::AttentionParams params;
  params.num_query_heads = plan_.num_query_heads;
  params.kv_head_of_query = plan_.kv_head_of_query.data();
  params.scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  params.sliding_window = engine_->manifest().model().sliding_window();
  operators_.attention(bound.inputs[0], batch.sequences, kv, params, bound.outputs[0]);
}

void GraphExecutor::receive_input(int64_t num_rows) {
  const Placement& place = plan_.placements.at(plan_.input);
  progress_.set_operation("receive from the stage before");
  const WaitingScope waiting(progress_);
  groups_.pipeline->recv(std::as_writable_bytes(std::span<float>(
                             rows_of(place).data, static_cast<size_t>(num_rows * place.stride))),
                         topology_.pp_rank() - 1);
}

void GraphExecutor::send_output(int64_t num_rows) {
  const Placement& place = plan_.placements.at(plan_.output);
  PHALANX_CHECK_EQ(place.stride, place.cols, "a stage sends contiguous rows");
  progress_.set_operation("send to the next stage");
  const WaitingScope waiting(progress_);
  groups_.pipeline->send(std::as_bytes(std::span<const float>(
                             rows_of(place).data, static_cast<size_t>(num_rows * place.stride))),
                         topology_.pp_rank() + 1);
}

kernels::Rows GraphExecutor::gather_logits(int64_t num_rows) {
  const Placement& place = plan_.placements.at(plan_.output);
  const kernels::Rows local = rows_of(place);
  if (topology_.tp_size == 1) return local;
  for (size_t rank = 0; rank < logits_cols_.size(); ++rank) {
    logits_bytes_[rank] = static_cast<size_t>(num_rows * logits_cols_[rank] * 4);
  }
  const std::span<const std::byte> part =
      std::as_bytes(std::span<const float>(local.data, static_cast<size_t>(num_rows * place.cols)));
  progress_.set_operation("gather logits");
  if (!topology_.is_sampler()) {
    const WaitingScope waiting(progress_);
    groups_.tensor->gather(part, logits_bytes_, {}, 0);
    return {};
  }
  auto* gathered = reinterpret_cast<float*>(logits_memory_.get());
  float* rows = gathered + plan_.logits_bytes / 8;
  {
    const WaitingScope waiting(progress_);
    groups_.tensor->gather(part, logits_bytes_,
                           std::as_writable_bytes(std::span<float>(
                               gathered, static_cast<size_t>(num_rows * vocab_size()))),
                           0);
  }
  int64_t column = 0;
  for (const int64_t cols : logits_cols_) {  // [rank][row][cols] to [row][vocab]
    for (int64_t row = 0; row < num_rows; ++row) {
      std::memcpy(rows + row * vocab_size() + column, gathered, static_cast<size_t>(cols) * 4);
      gathered += cols;
    }
    column += cols;
  }
  return {rows, vocab_size()};
}

}  // namespace phalanx
