// Loads a rank's slices and interprets its ops.
#include "runtime/executor/graph_executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/base/check.h"
#include "runtime/executor/waiting_scope.h"
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
  source.scale_rows = view.scale_rows;
  source.scale_cols = view.scale_cols;
  return source;
}

int64_t code_offset_bytes(kernels::WeightFormat format, int64_t col) {
  switch (format) {
    case kernels::WeightFormat::kF32:
      return col * 4;
    case kernels::WeightFormat::kBf16:
      return col * 2;
    case kernels::WeightFormat::kW8:
    case kernels::WeightFormat::kFp8:
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
    if (source.format == kernels::WeightFormat::kFp8) {  // scales by blocks, which may be cut
      source.first_row = slice.row_begin;
      source.first_col = slice.col_begin;
      return source;
    }
    const int64_t first =
        slice.row_begin * view.scale_row_stride + slice.col_begin / source.group_size;
    source.scales += first * static_cast<int64_t>(dtype_bytes(view.scale_dtype));
    if (source.zeros != nullptr) source.zeros += first;
  }
  return source;
}

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
      plan_(make_stage_plan(engine_->manifest(), topology, options.limits, operators.backend())),
      kv_cache_({options.kv_format, plan_.last_layer - plan_.first_layer, plan_.num_kv_heads,
                 engine_->manifest().model().head_dim(), options.num_kv_blocks},
                operators) {
  const engine::ModelConfig& model = engine_->manifest().model();
  operators_.reserve(step_bounds(plan_, options_.limits, model.head_dim(), options_.kv_format));
  make_rope_table();
  arena_ = operators_.allocate(plan_.arena_bytes);
  conversion_ = operators_.allocate(std::max<int64_t>(plan_.conversion_bytes, 64));
  gated_rows_ = operators_.allocate(std::max<int64_t>(plan_.gated_bytes, 64));
  if (plan_.logits_bytes > 0) logits_memory_ = operators_.allocate_host(plan_.logits_bytes);
  if (operators_.has_own_memory()) host_rows_ = operators_.allocate_host(host_rows_bytes());
  lend_parts();
  bind_ops();
  share_out_vocabulary();
  if (options_.draws_on_device && topology_.world_size == 1)
    token_sampler_ = operators_.make_token_sampler({vocab_size(), options_.limits.max_sequences});
  record_steps();
}

/// The rows that go through the host: between stages and ranks, and the logits of this rank.
int64_t GraphExecutor::host_rows_bytes() const {
  const engine::ModelConfig& model = engine_->manifest().model();
  const int64_t exchanged =
      options_.limits.max_rows * std::max(plan_.part_cols, model.hidden_size());
  const int64_t logits = topology_.is_last_stage() ? options_.limits.max_sequences *
                                                         plan_.placements.at(plan_.output).stride
                                                   : 0;
  return std::max(exchanged, logits) * 4;
}

/// Copied to the backend's memory, where it has its own.
const std::byte* GraphExecutor::keep(std::span<const std::byte> bytes) {
  if (!operators_.has_own_memory() || bytes.empty()) return bytes.data();
  kept_.push_back(operators_.allocate(static_cast<int64_t>(bytes.size())));
  operators_.upload(kept_.back().get(), bytes);
  return kept_.back().get();
}

const float* GraphExecutor::keep_vector(std::span<const float> values) {
  return reinterpret_cast<const float*>(keep(std::as_bytes(values)));
}

kernels::MatrixSource GraphExecutor::keep_table(const kernels::MatrixSource& table) {
  kernels::MatrixSource kept = table;
  const auto bytes_of = [](const std::byte* data, int64_t size) {
    return std::span<const std::byte>(data, static_cast<size_t>(size));
  };
  kept.codes = keep(bytes_of(table.codes, table.num_rows * table.row_stride_bytes));
  int64_t num_scales = 0;
  if (table.scales != nullptr) {
    num_scales = scale_index(table, table.num_rows - 1, table.num_cols / table.group_size - 1) + 1;
    kept.scales = keep(
        bytes_of(table.scales, num_scales * static_cast<int64_t>(dtype_bytes(table.scale_dtype))));
  }
  if (table.zeros != nullptr) {
    kept.zeros = reinterpret_cast<const uint8_t*>(
        keep(bytes_of(reinterpret_cast<const std::byte*>(table.zeros), num_scales)));
  }
  return kept;
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
  if (const auto gated = plan_.gated.find(op.name()); gated != plan_.gated.end())
    spec.gated = {gated->second.form, gated->second.group_size};
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
      bound.table = keep_table(whole_matrix(engine_->matrix(op.weights(0))));
    } else {
      if (op.weights_size() > 0) bound.weight = keep_vector(engine_->vector(op.weights(0)));
      if (op.biases_size() > 0 && !op.biases(0).empty()) {
        bound.bias = keep_vector(engine_->vector(op.biases(0)));
      }
    }
    ops_.push_back(std::move(bound));
  }
  find_last_reads();
}

void GraphExecutor::find_last_reads() {
  for (BoundOp& bound : ops_) {
    if (bound.matrix == nullptr) continue;
    const std::string& input = bound.op->inputs(0);
    bound.reads_last = input != plan_.output;
    for (const BoundOp& reader : ops_) {
      const auto& inputs = reader.op->inputs();
      if (std::find(inputs.begin(), inputs.end(), input) == inputs.end()) continue;
      const bool takes_the_same = reader.matrix != nullptr &&
                                  kernels::activation_form(reader.matrix->format()) ==
                                      kernels::activation_form(bound.matrix->format()) &&
                                  reader.matrix->group_size() == bound.matrix->group_size();
      if (!takes_the_same) bound.reads_last = false;
    }
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
  std::vector<float> on_host;
  auto* cosines = reinterpret_cast<float*>(rope_memory_.get());
  if (operators_.has_own_memory()) {
    on_host.resize(static_cast<size_t>(plan_.rope_bytes / 4));
    cosines = on_host.data();
  }
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
  if (operators_.has_own_memory())
    operators_.upload(rope_memory_.get(), std::as_bytes(std::span(on_host)));
  cosines = reinterpret_cast<float*>(rope_memory_.get());
  rope_ = {cosines, cosines + plan_.rope_bytes / 8, rope.rotary_dim(), positions};
}

kernels::Rows GraphExecutor::rows_of(const Placement& place) const {
  if (place.is_part) return {nullptr, place.stride};  // part_of() knows, step by step
  if (place.is_converted) return {nullptr, place.stride};
  return {reinterpret_cast<float*>(arena_.get() + place.offset_bytes) + place.column, place.stride};
}

kernels::Rows GraphExecutor::run(const StepBatch& batch) {
  check_step(batch);
  const auto num_rows = static_cast<int64_t>(batch.positions.size());
  const auto num_sampled = static_cast<int64_t>(batch.sampled_rows.size());
  shares_rows_ = is_worth_sharing(num_rows);
  if (!topology_.is_first_stage()) receive_input(num_rows);
  enqueue(batch);
  operators_.finish();
  if (peer_reducer_ != nullptr) peer_reducer_->require_no_failure();
  if (!topology_.is_last_stage()) {
    send_output(num_rows);
    return {};
  }
  if (num_sampled == 0) return {};
  return gather_logits(num_sampled);
}

void GraphExecutor::start(const StepBatch& batch) {
  check_step(batch);
  enqueue(batch);
  token_sampler_->send_draws(static_cast<int64_t>(batch.sampled_rows.size()));
}

void GraphExecutor::check_step(const StepBatch& batch) const {
  PHALANX_CHECK_LE(static_cast<int64_t>(batch.positions.size()), options_.limits.max_rows,
                   "rows of a step");
  PHALANX_CHECK_LE(static_cast<int64_t>(batch.sampled_rows.size()), options_.limits.max_sequences,
                   "sampled rows of a step");
}

void GraphExecutor::enqueue(const StepBatch& batch) {
  if (!run_recorded(batch)) run_ops(operators_.stage(batch));
}

/// batch: as staged. Leaves the operators unfinished.
void GraphExecutor::run_ops(const StepBatch& batch) {
  converted_ = nullptr;
  operators_.begin();
  if (!batch.token_slots.empty()) token_sampler_->feed_back(batch);
  for (const BoundOp& bound : ops_) {
    if (bound.op->kind() == engine::SELECT_ROWS && batch.sampled_rows.empty()) {
      end_of_ops();
      return;
    }
    progress_.set_operation(model::op_kind_name(bound.op->kind()), bound.op->layer());
    run_op(bound, batch);
  }
  if (!batch.draws.empty()) token_sampler_->draw(rows_of(plan_.placements.at(plan_.output)), batch);
  end_of_ops();
}

void GraphExecutor::end_of_ops() {
  if (peer_reducer_ != nullptr) peer_reducer_->end_step();
}

/// Between ranks that do not meet on the device a step goes through the host and cannot be
/// recorded.
void GraphExecutor::record_steps() {
  if (topology_.tp_size > 1 && peer_reducer_ == nullptr) return;
  const auto largest =
      static_cast<size_t>(options_.recorded_sizes.empty() ? 0 : options_.recorded_sizes.back());
  padded_token_ids_.resize(largest);
  padded_positions_.resize(largest);
  padded_sequences_.resize(largest);
  padded_rows_.resize(largest);
  for (size_t i = 0; i < largest; ++i) padded_rows_[i] = static_cast<int32_t>(i);
  if (token_sampler_ != nullptr) {
    padded_token_slots_.assign(largest, kernels::kNoSlot);
    padded_draws_.assign(largest, {kernels::kNoSlot, 0});
  }
  for (const int64_t size : options_.recorded_sizes) {
    progress_.set_operation("record a step");
    const StepBatch batch = operators_.stage(padded(size));
    auto recorded = operators_.record([&] { run_ops(batch); });
    if (recorded == nullptr) return;
    recorded_.push_back(std::move(recorded));
  }
}

/// The first `size` rows of the filled-up inputs.
StepBatch GraphExecutor::padded(int64_t size) const {
  const auto count = static_cast<size_t>(size);
  StepBatch batch;
  batch.token_ids = std::span(padded_token_ids_).first(count);
  batch.positions = std::span(padded_positions_).first(count);
  batch.sequences = std::span(padded_sequences_).first(count);
  if (topology_.is_last_stage()) batch.sampled_rows = std::span(padded_rows_).first(count);
  if (token_sampler_ != nullptr) {
    batch.token_slots = std::span(padded_token_slots_).first(count);
    batch.draws = std::span(padded_draws_).first(count);
  }
  return batch;
}

/// Runs a step of one sampled row a sequence as a recorded one of at least as many sequences: what
/// is filled up belongs to no sequence and changes no block. False: there is none such.
bool GraphExecutor::run_recorded(const StepBatch& batch) {
  const size_t num_rows = batch.positions.size();
  const bool is_decode = batch.sequences.size() == num_rows &&
                         (!topology_.is_last_stage() || batch.sampled_rows.size() == num_rows);
  if (!is_decode || recorded_.empty()) return false;
  const auto& sizes = options_.recorded_sizes;
  const auto found = std::lower_bound(sizes.begin(), sizes.end(), static_cast<int64_t>(num_rows));
  if (found == sizes.end()) return false;
  const auto size = static_cast<size_t>(*found);
  std::copy(batch.token_ids.begin(), batch.token_ids.end(), padded_token_ids_.begin());
  std::copy(batch.positions.begin(), batch.positions.end(), padded_positions_.begin());
  std::copy(batch.sequences.begin(), batch.sequences.end(), padded_sequences_.begin());
  std::copy(batch.token_slots.begin(), batch.token_slots.end(), padded_token_slots_.begin());
  std::copy(batch.draws.begin(), batch.draws.end(), padded_draws_.begin());
  for (size_t i = num_rows; i < size; ++i) {
    if (token_sampler_ != nullptr) {
      padded_token_slots_[i] = kernels::kNoSlot;
      padded_draws_[i] = {kernels::kNoSlot, 0};
    }
    padded_token_ids_[i] = 0;
    padded_positions_[i] = 0;
    padded_sequences_[i] = {static_cast<int64_t>(i), 0, 0, nullptr};
  }
  progress_.set_operation("recorded step");
  operators_.stage(padded(*found));
  operators_.replay(*recorded_[static_cast<size_t>(found - sizes.begin())]);
  return true;
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
    case engine::ALL_REDUCE:
      PHALANX_CHECK_EQ(out.stride, out.cols, "all_reduce needs contiguous rows");
      operators_.finish();
      all_reduce({y.data, static_cast<size_t>(num_rows * out.cols)});
      operators_.begin();
      break;
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
    if (bound.reads_last) {
      operators_.convert_last_read(bound.inputs[0], num_rows, converted_view_);
    } else {
      operators_.convert_rows(bound.inputs[0], num_rows, converted_view_);
    }
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
  kernels::Rows y = bound.outputs[0];
  if (bound.output->is_part)
    y = peer_reducer_ != nullptr ? peer_reducer_->part(num_rows) : part_of(topology_.tp_rank());
  operators_.linear(matrix, converted_view_, num_rows, y);
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
  const auto size = static_cast<size_t>(num_rows * place.stride) * sizeof(float);
  auto* rows = reinterpret_cast<std::byte*>(rows_of(place).data);
  const bool staged = operators_.has_own_memory();
  const std::span<std::byte> on_host(staged ? host_rows_.get() : rows, size);
  {
    const WaitingScope waiting(progress_);
    groups_.pipeline->recv(on_host, topology_.pp_rank() - 1);
  }
  if (staged) operators_.upload(rows, on_host);
}

void GraphExecutor::send_output(int64_t num_rows) {
  const Placement& place = plan_.placements.at(plan_.output);
  PHALANX_CHECK_EQ(place.stride, place.cols, "a stage sends contiguous rows");
  progress_.set_operation("send to the next stage");
  const std::span<const std::byte> rows = rows_on_host(rows_of(place), num_rows);
  const WaitingScope waiting(progress_);
  groups_.pipeline->send(rows, topology_.pp_rank() + 1);
}

/// Contiguous rows, copied to the host where the backend has memory of its own.
std::span<std::byte> GraphExecutor::rows_on_host(kernels::Rows rows, int64_t num_rows) {
  const auto size = static_cast<size_t>(num_rows * rows.stride) * sizeof(float);
  auto* data = reinterpret_cast<std::byte*>(rows.data);
  if (!operators_.has_own_memory()) return {data, size};
  operators_.download({host_rows_.get(), size}, data);
  return {host_rows_.get(), size};
}

kernels::Rows GraphExecutor::gather_logits(int64_t num_rows) {
  const Placement& place = plan_.placements.at(plan_.output);
  const std::span<std::byte> part = rows_on_host(rows_of(place), num_rows);
  if (topology_.tp_size == 1) return {reinterpret_cast<float*>(part.data()), place.stride};
  for (size_t rank = 0; rank < logits_cols_.size(); ++rank) {
    logits_bytes_[rank] = static_cast<size_t>(num_rows * logits_cols_[rank] * 4);
  }
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
