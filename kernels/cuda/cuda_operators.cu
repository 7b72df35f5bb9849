// CudaOperators: every operator is checks and a launch.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/cuda_peer_reducer.h"
#include "kernels/cuda/cuda_token_sampler.h"
#include "kernels/cuda/kv_write_launches.h"
#include "kernels/cuda/row_launches.h"
#include "kernels/operator_checks.h"
#include "runtime/base/check.h"

namespace phalanx::kernels {
namespace cuda {
namespace {

/// Uploads and downloads of memory that is not pinned go through a buffer of this size.
constexpr int64_t kTransferBytes = int64_t{16} << 20;

/// Launches between two marks: some tens of milliseconds of the longest kernels.
constexpr int64_t kLaunchesPerMark = 8;

/// Blocks of attention that a multiprocessor runs at a time.
constexpr int64_t kBlocksOfAttention = 2;

/// Pending rows that are as many as the next operator says.
constexpr int64_t kAnyRows = -1;

class CudaMatrix final : public PackedMatrix {
 public:
  CudaMatrix(const DeviceMatrixLayout& layout, std::shared_ptr<std::byte> memory)
      : memory_(std::move(memory)), matrix_(make_device_matrix(layout, memory_.get())) {
    format_ = layout.format;
    num_rows_ = layout.shape.num_rows;
    num_cols_ = layout.shape.num_cols;
    num_lanes_ = layout.shape.num_lanes;
    group_size_ = layout.group_size;
    bytes_ = layout.total_bytes;
  }
  const DeviceMatrix& matrix() const { return matrix_; }

 private:
  std::shared_ptr<std::byte> memory_;
  DeviceMatrix matrix_;
};

struct CudaRecordedOperators final : RecordedOperators {
  explicit CudaRecordedOperators(std::unique_ptr<Recording> recorded)
      : recording(std::move(recorded)) {}
  std::unique_ptr<Recording> recording;
  int64_t num_launches = 0;
};

DeviceParts device_parts(const PartRows& parts) {
  PHALANX_CHECK_LE(parts.parts.size(), static_cast<size_t>(kMostParts),
                   "parts of a sum on a CUDA device");
  DeviceParts device{};
  std::copy(parts.parts.begin(), parts.parts.end(), device.parts);
  device.num_parts = static_cast<int>(parts.parts.size());
  device.stride = parts.stride;
  return device;
}

LayerAttention layer_attention(const KvLayerView& kv, const AttentionParams& params) {
  LayerAttention shape;
  shape.format = kv.format;
  shape.head_dim = kv.head_dim;
  shape.num_kv_heads = kv.num_kv_heads;
  shape.num_query_heads = params.num_query_heads;
  shape.kv_head_of_query = params.kv_head_of_query;
  shape.scale = params.scale;
  shape.sliding_window = params.sliding_window;
  return shape;
}

}  // namespace

CudaOperators::CudaOperators(const CudaBackendOptions& options)
    : device_(Device::open(options.device_index)),
      team_(options.num_host_threads, false, {}, options.work),
      transfer_(device_->allocate_host(kTransferBytes)) {}

std::string CudaOperators::description() const {
  const DeviceInfo& info = device_->info();
  return "cuda " + std::to_string(info.index) + " (" + info.name + ")";
}

void CudaOperators::finish() {
  flush();
  wait();
  is_deferring_ = false;
}

/// Waits for everything enqueued.
void CudaOperators::wait() {
  device_->synchronize([this] { count_progress(); });
  count_progress();
}

std::shared_ptr<std::byte> CudaOperators::allocate(int64_t bytes) {
  PHALANX_CHECK_GE(bytes, 0, "bytes to allocate");
  return device_->allocate(std::max<int64_t>(bytes, 1));
}

std::shared_ptr<std::byte> CudaOperators::allocate_host(int64_t bytes) {
  PHALANX_CHECK_GE(bytes, 0, "bytes to allocate");
  auto memory = device_->allocate_host(std::max<int64_t>(bytes, 1));
  pinned_.emplace_back(memory.get(), static_cast<size_t>(bytes));
  return memory;
}

bool CudaOperators::is_pinned(std::span<const std::byte> bytes) const {
  const auto holds = [&](const std::span<const std::byte>& pinned) {
    return bytes.data() >= pinned.data() &&
           bytes.data() + bytes.size() <= pinned.data() + pinned.size();
  };
  return std::any_of(pinned_.begin(), pinned_.end(), holds);
}

void CudaOperators::upload(std::byte* to, std::span<const std::byte> from) {
  flush();
  if (is_pinned(from)) {
    device_->copy_to_device(to, from.data(), static_cast<int64_t>(from.size()));
    wait();
    return;
  }
  while (!from.empty()) {
    const auto part = from.first(std::min(from.size(), static_cast<size_t>(kTransferBytes)));
    std::memcpy(transfer_.get(), part.data(), part.size());
    device_->copy_to_device(to, transfer_.get(), static_cast<int64_t>(part.size()));
    wait();
    to += part.size();
    from = from.subspan(part.size());
  }
}

void CudaOperators::download(std::span<std::byte> to, const std::byte* from) {
  flush();
  if (is_pinned(to)) {
    device_->copy_to_host(to.data(), from, static_cast<int64_t>(to.size()));
    wait();
    return;
  }
  while (!to.empty()) {
    const auto part = to.first(std::min(to.size(), static_cast<size_t>(kTransferBytes)));
    device_->copy_to_host(transfer_.get(), from, static_cast<int64_t>(part.size()));
    wait();
    std::memcpy(part.data(), transfer_.get(), part.size());
    from += part.size();
    to = to.subspan(part.size());
  }
}

void CudaOperators::postpone(Rows y, int64_t num_rows, int64_t num_cols,
                             std::function<void(const DeviceActivation& out)> launch) {
  flush();
  pending_ = Pending{y, num_rows, num_cols, std::move(launch)};
  if (!is_deferring_) finish();
}

void CudaOperators::flush() {
  if (pending_) {
    const Pending pending = *std::exchange(pending_, std::nullopt);
    pending.launch(device_activation(pending.y));
    enqueued();
  }
  for (const PendingHeads& heads : std::exchange(pending_heads_, {})) launch_heads(heads);
}

/// Head norm and rotation of some rows that are not written to KV blocks next.
void CudaOperators::launch_heads(const PendingHeads& heads) {
  if (heads.weight != nullptr) {
    launch_head_norm(heads.x, heads.num_heads, heads.head_dim, heads.weight, heads.eps,
                     heads.num_rows, device_->stream());
    enqueued();
  }
  if (heads.rope.cosines != nullptr) {
    launch_rope(heads.x, heads.num_heads, heads.head_dim, heads.rope, heads.positions,
                heads.num_rows, device_->stream());
    enqueued();
  }
}

/// What waits for these rows and takes a rotation, or a norm as well; or a new entry. Two fit one
/// kernel: queries and keys.
CudaOperators::PendingHeads& CudaOperators::heads_of(Rows x, int64_t num_heads, int64_t head_dim,
                                                     int64_t num_rows, bool takes_norm) {
  const auto waiting =
      std::find_if(pending_heads_.begin(), pending_heads_.end(), [&](const PendingHeads& heads) {
        return heads.x.data == x.data && heads.x.stride == x.stride &&
               heads.num_heads == num_heads && heads.head_dim == head_dim &&
               heads.num_rows == num_rows;
      });
  if (waiting != pending_heads_.end() && waiting->rope.cosines == nullptr &&
      !(takes_norm && waiting->weight != nullptr))
    return *waiting;
  if (pending_ || waiting != pending_heads_.end() || pending_heads_.size() == 2) flush();
  pending_heads_.push_back({x, num_heads, head_dim, num_rows, nullptr, 0.0F, {}, nullptr});
  return pending_heads_.back();
}

void CudaOperators::head_norm(Rows x, int64_t num_heads, int64_t head_dim, const float* weight,
                              float eps, int64_t num_rows) {
  check_rows(x, num_rows, num_heads * head_dim, "rows of head_norm");
  check_norm(weight, eps, head_dim);
  PendingHeads& heads = heads_of(x, num_heads, head_dim, num_rows, true);
  heads.weight = weight;
  heads.eps = eps;
  if (!is_deferring_) finish();
}

void CudaOperators::rope(Rows x, int64_t num_heads, int64_t head_dim, const RopeTable& table,
                         std::span<const int32_t> positions) {
  const auto num_rows = static_cast<int64_t>(positions.size());
  check_rows(x, num_rows, num_heads * head_dim, "rows of rope");
  PHALANX_CHECK(table.cosines != nullptr && table.sines != nullptr, "rope needs its tables");
  PendingHeads& heads = heads_of(x, num_heads, head_dim, num_rows, false);
  heads.rope = table;
  heads.positions = positions.data();
  if (!is_deferring_) finish();
}

void CudaOperators::write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                             const KvLayerView& kv) {
  check_kv(kv);
  if (pending_) flush();
  KvRows rows;
  rows.k = k;
  rows.v = v;
  int64_t num_rows = bounds_.max_rows;
  const auto of_keys =
      std::find_if(pending_heads_.begin(), pending_heads_.end(), [&](const PendingHeads& heads) {
        return heads.x.data == k.data && heads.num_heads == kv.num_kv_heads;
      });
  if (of_keys != pending_heads_.end()) {
    const PendingHeads keys = *of_keys;
    pending_heads_.erase(of_keys);
    const bool has_queries = !pending_heads_.empty();
    const bool joins = has_queries && pending_heads_[0].num_rows == keys.num_rows &&
                       pending_heads_[0].head_dim == keys.head_dim &&
                       pending_heads_[0].rope.cosines == keys.rope.cosines &&
                       (pending_heads_[0].weight == nullptr || keys.weight == nullptr ||
                        pending_heads_[0].eps == keys.eps);
    if (has_queries && !joins) flush();
    num_rows = keys.num_rows;
    rows.k_weight = keys.weight;
    rows.eps = keys.eps;
    rows.rope = keys.rope;
    if (joins) {
      const PendingHeads queries = pending_heads_[0];
      pending_heads_.clear();
      rows.q = queries.x;
      rows.num_query_heads = queries.num_heads;
      rows.q_weight = queries.weight;
      if (queries.weight != nullptr) rows.eps = queries.eps;
    }
  } else {
    flush();
  }
  launch_write_kv(rows, {sequences.data(), static_cast<int64_t>(sequences.size())}, num_rows, kv,
                  device_->stream());
  enqueued();
}

void CudaOperators::enqueued() {
  count_launch();
  if (!is_deferring_) finish();
}

void CudaOperators::count_launch() {
  if (++num_launches_ % kLaunchesPerMark == 0) device_->mark();
}

void CudaOperators::count_progress() { count_piece(team_.tally()); }

void CudaOperators::rms_norm(ConstRows x, const float* weight, float eps, int64_t num_rows,
                             int64_t num_cols, Rows y) {
  check_rows(x, num_rows, num_cols, "rows of a norm");
  check_rows(y, num_rows, num_cols, "rows a norm writes");
  check_norm(weight, eps, num_cols);
  // Without parts the residual is only read.
  const Rows residual{const_cast<float*>(x.data), x.stride};
  postpone(y, num_rows, num_cols, [=, stream = device_->stream()](const DeviceActivation& out) {
    launch_add_rms_norm(residual, {}, nullptr, weight, eps, num_rows, num_cols, out, stream);
  });
}

void CudaOperators::add_rms_norm(Rows residual, ConstRows delta, const float* delta_bias,
                                 const float* weight, float eps, int64_t num_rows, int64_t num_cols,
                                 Rows y) {
  const float* part = delta.data;
  add_rms_norm_of_parts(residual, {{&part, 1}, delta.stride}, delta_bias, weight, eps, num_rows,
                        num_cols, y);
}

void CudaOperators::add_rms_norm_of_parts(Rows residual, const PartRows& delta,
                                          const float* delta_bias, const float* weight, float eps,
                                          int64_t num_rows, int64_t num_cols, Rows y) {
  check_rows(residual, num_rows, num_cols, "rows of the residual");
  check_parts(delta, num_rows, num_cols);
  check_rows(y, num_rows, num_cols, "rows a norm writes");
  check_norm(weight, eps, num_cols);
  postpone(
      y, num_rows, num_cols,
      [=, parts = device_parts(delta), stream = device_->stream()](const DeviceActivation& out) {
        launch_add_rms_norm(residual, parts, delta_bias, weight, eps, num_rows, num_cols, out,
                            stream);
      });
}

void CudaOperators::add_rows(Rows residual, ConstRows delta, const float* delta_bias,
                             int64_t num_rows, int64_t num_cols) {
  const float* part = delta.data;
  add_rows_of_parts(residual, {{&part, 1}, delta.stride}, delta_bias, num_rows, num_cols);
}

void CudaOperators::add_rows_of_parts(Rows residual, const PartRows& delta, const float* delta_bias,
                                      int64_t num_rows, int64_t num_cols) {
  check_rows(residual, num_rows, num_cols, "rows of the residual");
  check_parts(delta, num_rows, num_cols);
  flush();
  launch_add_rms_norm(residual, device_parts(delta), delta_bias, nullptr, 0.0F, num_rows, num_cols,
                      {}, device_->stream());
  enqueued();
}

void CudaOperators::convert_rows(ConstRows x, int64_t num_rows, const ActivationView& out) {
  check_rows(x, num_rows, out.num_cols, "rows to convert");
  check_activation_view(out, num_rows);
  flush();
  launch_convert(x, num_rows, out.num_cols, device_activation(out), device_->stream());
  enqueued();
}

void CudaOperators::convert_last_read(ConstRows x, int64_t num_rows, const ActivationView& out) {
  const bool makes_them = pending_ && pending_->y.data == x.data &&
                          pending_->y.stride == x.stride &&
                          (pending_->num_rows == num_rows || pending_->num_rows == kAnyRows) &&
                          pending_->num_cols == out.num_cols;
  if (!makes_them) {
    convert_rows(x, num_rows, out);
    return;
  }
  check_activation_view(out, num_rows);
  const Pending pending = *std::exchange(pending_, std::nullopt);
  pending.launch(device_activation(out));
  enqueued();
}

void CudaOperators::silu_mul(ConstRows gate, ConstRows up, int64_t num_rows, int64_t intermediate,
                             Rows y) {
  check_rows(gate, num_rows, intermediate, "rows of gates");
  check_rows(up, num_rows, intermediate, "rows of factors");
  check_rows(y, num_rows, intermediate, "rows silu_mul writes");
  postpone(y, num_rows, intermediate, [=, stream = device_->stream()](const DeviceActivation& out) {
    launch_silu_mul(gate, up, num_rows, intermediate, out, stream);
  });
}

void CudaOperators::gather_rows(ConstRows x, std::span<const int32_t> rows, int64_t num_cols,
                                Rows y) {
  const auto num_rows = static_cast<int64_t>(rows.size());
  check_rows(y, num_rows, num_cols, "gather_rows writes rows");
  flush();
  launch_gather(x, rows.data(), num_rows, num_cols, y, device_->stream());
  enqueued();
}

void CudaOperators::for_each_on_host(int64_t count, const std::function<void(int64_t)>& work) {
  team_.share(count, 1, [&](int64_t begin, int64_t end, bool, bool) {
    for (int64_t i = begin; i < end; ++i) work(i);
    count_progress();
  });
}

AttentionBounds CudaOperators::largest_step(const StepBounds& bounds) {
  AttentionBounds step;
  step.num_sequences = bounds.max_sequences;
  step.max_rows = step.max_rows_of_sequence = bounds.max_rows;
  step.max_context = bounds.max_positions;
  return step;
}

/// A smaller step may have more partial results, up to their bound.
AttentionBytes CudaOperators::attention_room(const StepBounds& bounds,
                                             const AttentionBounds& step) {
  KvLayerView kv;
  kv.format = bounds.kv_format;
  kv.num_kv_heads = bounds.num_kv_heads;
  kv.head_dim = bounds.head_dim;
  AttentionParams params;
  params.num_query_heads = bounds.num_query_heads;
  params.kv_head_of_query = bounds.kv_head_of_query;
  AttentionBytes bytes = attention_bytes(layer_attention(kv, params), step);
  bytes.scratch += step.partials_bytes;
  return bytes;
}

int64_t CudaOperators::workspace_bytes(const StepBounds& bounds, int64_t vocab_size) {
  const AttentionBytes attention = attention_room(bounds, largest_step(bounds));
  return StepInputs::bytes(bounds) + attention.plan + attention.counters + attention.scratch +
         CudaTokenSampler::bytes({vocab_size, bounds.max_sequences});
}

void CudaOperators::reserve(const StepBounds& bounds) {
  finish();
  bounds_ = bounds;
  inputs_ = std::make_unique<StepInputs>(*device_, bounds);
  step_ = largest_step(bounds);
  step_.target_blocks = kBlocksOfAttention * device_->info().num_multiprocessors;
  const AttentionBytes bytes = attention_room(bounds, step_);
  attention_plan_.grow(*device_, bytes.plan);
  attention_counters_.grow(*device_, bytes.counters);
  attention_scratch_.grow(*device_, bytes.scratch);
}

StepRows CudaOperators::stage(const StepRows& rows) {
  PHALANX_CHECK(inputs_ != nullptr, "steps are staged after reserve()");
  flush();
  plan_.reset();
  step_.num_sequences = static_cast<int64_t>(rows.sequences.size());
  step_.max_rows = static_cast<int64_t>(rows.positions.size());
  step_.max_rows_of_sequence = step_.max_context = 1;
  for (const SequenceRows& sequence : rows.sequences) {
    step_.max_rows_of_sequence = std::max(step_.max_rows_of_sequence, sequence.num_rows);
    step_.max_context = std::max(step_.max_context, sequence.first_position + sequence.num_rows);
  }
  return inputs_->stage(rows);
}

// What is recorded now, of the rows staged last, is replayed for steps of as many sequences, of at
// most a row each and with any context.
std::unique_ptr<RecordedOperators> CudaOperators::record(const std::function<void()>& calls) {
  finish();
  plan_.reset();
  step_.max_rows_of_sequence = 1;
  step_.max_context = bounds_.max_positions;
  const int64_t num_before = num_launches_;
  auto recording = device_->record([&] {
    calls();
    flush();
  });
  is_deferring_ = false;
  auto recorded = std::make_unique<CudaRecordedOperators>(std::move(recording));
  recorded->num_launches = num_launches_ - num_before;
  return recorded;
}

void CudaOperators::replay(const RecordedOperators& recorded) {
  flush();
  is_deferring_ = true;
  device_->replay(*dynamic_cast<const CudaRecordedOperators&>(recorded).recording);
}

std::unique_ptr<TokenSampler> CudaOperators::make_token_sampler(const TokenSamplerBounds& bounds) {
  finish();
  return std::make_unique<CudaTokenSampler>(*this, *device_, bounds);
}

std::unique_ptr<PeerReducer> CudaOperators::make_peer_reducer(const PeerReducerBounds& bounds,
                                                              const PeerExchange& exchange,
                                                              std::string* why_none) {
  finish();
  return CudaPeerReducer::make(*this, *device_, bounds, exchange, why_none);
}

std::unique_ptr<PackedMatrix> CudaOperators::pack_matrix(const MatrixSpec& spec) {
  finish();
  const DeviceMatrixLayout layout = make_device_matrix_layout(spec);
  std::vector<std::byte> image(static_cast<size_t>(layout.total_bytes));
  team_.share(layout.shape.num_tiles, 1, [&](int64_t first, int64_t end, bool, bool) {
    pack_device_matrix(spec, layout, first, end, image.data());
    count_piece(team_.tally());
  });
  auto memory = device_->allocate(layout.total_bytes);
  upload(memory.get(), image);
  if (spec.gated) {
    const GatedScratch scratch =
        gated_linear_scratch(layout.format, layout.shape.num_rows, spec.gated->form,
                             spec.gated->group_size, bounds_.max_rows);
    products_.grow(*device_, scratch.products_bytes);
    arrivals_.grow(*device_, scratch.arrivals_bytes);
  }
  return std::make_unique<CudaMatrix>(layout, std::move(memory));
}

void CudaOperators::embedding(const MatrixSource& table, std::span<const int32_t> token_ids,
                              Rows y) {
  PHALANX_CHECK(table.codes != nullptr, "an embedding table needs codes");
  const auto num_rows = static_cast<int64_t>(token_ids.size());
  check_rows(y, num_rows, table.num_cols, "rows of the embedding");
  flush();
  launch_embedding(table, token_ids.data(), num_rows, y, device_->stream());
  enqueued();
}

void CudaOperators::linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                           Rows y) {
  check_linear(w, x, num_rows, y);
  flush();
  launch_linear(dynamic_cast<const CudaMatrix&>(w).matrix(), x, num_rows, y, linear_device(),
                device_->stream());
  enqueued();
}

void CudaOperators::gated_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                                 const ActivationView& out) {
  check_gated_linear(w, x, num_rows, out);
  const GatedScratch scratch =
      gated_linear_scratch(w.format(), w.num_rows(), out.form, out.group_size, num_rows);
  PHALANX_CHECK(
      scratch.products_bytes <= products_.bytes && scratch.arrivals_bytes <= arrivals_.bytes,
      "a gated product of a matrix that was not packed for it");
  flush();
  launch_gated_linear(dynamic_cast<const CudaMatrix&>(w).matrix(), x, num_rows,
                      device_activation(out), reinterpret_cast<float*>(products_.memory.get()),
                      reinterpret_cast<uint32_t*>(arrivals_.memory.get()), linear_device(),
                      device_->stream());
  enqueued();
}

LinearDevice CudaOperators::linear_device() const {
  LinearDevice linear;
  linear.num_sms = device_->info().num_multiprocessors;
  linear.shared_bytes_of_block = device_->info().shared_bytes_of_block;
  return linear;
}

void CudaOperators::attention(ConstRows q, std::span<const SequenceRows> sequences,
                              const KvLayerView& kv, const AttentionParams& params, Rows y) {
  check_kv(kv);
  PHALANX_CHECK_GT(params.num_query_heads, 0, "num_query_heads");
  PHALANX_CHECK(params.kv_head_of_query != nullptr,
                "attention needs the KV head of each query head");
  const LayerAttention shape = layer_attention(kv, params);
  AttentionBounds bounds = step_;
  bounds.num_sequences = static_cast<int64_t>(sequences.size());
  flush();
  const AttentionMemory memory = attention_memory(shape, bounds);
  const DeviceSequences rows{sequences.data(), static_cast<int64_t>(sequences.size())};
  if (!is_deferring_ || plan_ != params.sliding_window) {
    launch_attention_plan(shape, bounds, rows, memory, device_->stream());
    count_launch();
    plan_ = params.sliding_window;
  }
  const int64_t num_cols = params.num_query_heads * kv.head_dim;
  postpone(y, kAnyRows, num_cols, [=, this](const DeviceActivation& out) {
    launch_attention(shape, bounds, q, rows, kv, memory, out, device_->stream());
  });
}

AttentionMemory CudaOperators::attention_memory(const LayerAttention& shape,
                                                const AttentionBounds& bounds) const {
  const AttentionBytes bytes = attention_bytes(shape, bounds);
  PHALANX_CHECK(bytes.plan <= attention_plan_.bytes &&
                    bytes.counters <= attention_counters_.bytes &&
                    bytes.scratch <= attention_scratch_.bytes,
                "a step larger than reserve() was told of");
  return {attention_plan_.memory.get(), attention_counters_.memory.get(),
          attention_scratch_.memory.get()};
}

}  // namespace cuda

std::vector<CudaDeviceInfo> find_cuda_devices(std::string* why_none) {
  std::vector<CudaDeviceInfo> found;
  for (const cuda::DeviceInfo& device : cuda::find_devices(why_none))
    found.push_back(
        {device.index, device.name, device.uuid, device.pci_bus_id, device.total_bytes});
  return found;
}

int64_t free_cuda_memory(int device_index) {
  return cuda::Device::open(device_index)->info().free_bytes;
}

int64_t cuda_workspace_bytes(const StepBounds& bounds, int64_t vocab_size) {
  return cuda::CudaOperators::workspace_bytes(bounds, vocab_size);
}

int64_t num_cuda_launches(const RecordedOperators& recorded) {
  return dynamic_cast<const cuda::CudaRecordedOperators&>(recorded).num_launches;
}

std::unique_ptr<Operators> make_cuda_operators(const CudaBackendOptions& options) {
  return std::make_unique<cuda::CudaOperators>(options);
}

}  // namespace phalanx::kernels
