// The CUDA backend: checks each call, joins neighbouring operators into one kernel, enqueues it in
// the device's stream. Made by make_cuda_operators; called by the graph executor.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu/thread_team.h"
#include "kernels/cuda/attention_launches.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/linear_launches.h"
#include "kernels/cuda/peer_memory.h"
#include "kernels/cuda/row_views.h"
#include "kernels/cuda/step_inputs.h"
#include "kernels/cuda_backend.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cuda {

/// Contracts are those of Operators; w8 and w4 products, int8 attention and all row operators give
/// the CPU's bits. Executor thread only.
///
/// An operator whose rows the next one may convert waits for it (pending_): then one kernel does
/// both. Anything else that is called runs what waits first.
class CudaOperators final : public Operators {
 public:
  explicit CudaOperators(const CudaBackendOptions& options);

  /// cuda_workspace_bytes(), on a device of about an H100's size.
  static int64_t workspace_bytes(const StepBounds& bounds, int64_t vocab_size);

  std::string description() const override;
  void begin() override { is_deferring_ = true; }
  void finish() override;
  Backend backend() const override { return Backend::kCuda; }
  std::shared_ptr<std::byte> allocate_host(int64_t bytes) override;
  void upload(std::byte* to, std::span<const std::byte> from) override;
  void download(std::span<std::byte> to, const std::byte* from) override;
  void reserve(const StepBounds& bounds) override;
  StepRows stage(const StepRows& rows) override;
  std::unique_ptr<RecordedOperators> record(const std::function<void()>& calls) override;
  void replay(const RecordedOperators& recorded) override;
  std::unique_ptr<TokenSampler> make_token_sampler(const TokenSamplerBounds& bounds) override;
  std::unique_ptr<PeerReducer> make_peer_reducer(const PeerReducerBounds& bounds,
                                                 const PeerExchange& exchange,
                                                 std::string* why_none) override;
  std::unique_ptr<PackedMatrix> pack_matrix(const MatrixSpec& spec) override;
  std::shared_ptr<std::byte> allocate(int64_t bytes) override;
  void embedding(const MatrixSource& table, std::span<const int32_t> token_ids, Rows y) override;
  void rms_norm(ConstRows x, const float* weight, float eps, int64_t num_rows, int64_t num_cols,
                Rows y) override;
  void add_rms_norm(Rows residual, ConstRows delta, const float* delta_bias, const float* weight,
                    float eps, int64_t num_rows, int64_t num_cols, Rows y) override;
  void add_rows(Rows residual, ConstRows delta, const float* delta_bias, int64_t num_rows,
                int64_t num_cols) override;
  void add_rms_norm_of_parts(Rows residual, const PartRows& delta, const float* delta_bias,
                             const float* weight, float eps, int64_t num_rows, int64_t num_cols,
                             Rows y) override;
  void add_rows_of_parts(Rows residual, const PartRows& delta, const float* delta_bias,
                         int64_t num_rows, int64_t num_cols) override;
  void convert_rows(ConstRows x, int64_t num_rows, const ActivationView& out) override;
  void convert_last_read(ConstRows x, int64_t num_rows, const ActivationView& out) override;
  void linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows, Rows y) override;
  void gated_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                    const ActivationView& out) override;
  void head_norm(Rows x, int64_t num_heads, int64_t head_dim, const float* weight, float eps,
                 int64_t num_rows) override;
  void rope(Rows x, int64_t num_heads, int64_t head_dim, const RopeTable& table,
            std::span<const int32_t> positions) override;
  void write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                const KvLayerView& kv) override;
  void attention(ConstRows q, std::span<const SequenceRows> sequences, const KvLayerView& kv,
                 const AttentionParams& params, Rows y) override;
  void silu_mul(ConstRows gate, ConstRows up, int64_t num_rows, int64_t intermediate,
                Rows y) override;
  void gather_rows(ConstRows x, std::span<const int32_t> rows, int64_t num_cols, Rows y) override;
  void for_each_on_host(int64_t count, const std::function<void(int64_t)>& work) override;

  // For what shares the stream: the token sampler and the peer reducer.

  /// Enqueues what waits. Before a launch.
  void flush();
  /// After a launch.
  void enqueued();
  void count_progress();

 private:
  /// Memory that grows while nothing runs.
  struct Buffer {
    std::shared_ptr<std::byte> memory;
    int64_t bytes = 0;
    void grow(Device& device, int64_t wanted_bytes) {
      if (wanted_bytes <= bytes) return;
      memory = device.allocate(wanted_bytes);
      bytes = wanted_bytes;
    }
  };

  /// An operator that makes rows `y`, which wait to be made in the form asked for next.
  struct Pending {
    Rows y;
    int64_t num_rows = 0;
    int64_t num_cols = 0;
    std::function<void(const DeviceActivation& out)> launch;
  };
  /// Norm and rotation of heads, which wait for each other and for write_kv.
  struct PendingHeads {
    Rows x;
    int64_t num_heads = 0;
    int64_t head_dim = 0;
    int64_t num_rows = 0;
    const float* weight = nullptr;  ///< null: no norm
    float eps = 0.0F;
    RopeTable rope;  ///< null cosines: none; after the norm
    const int32_t* positions = nullptr;
  };
  PendingHeads& heads_of(Rows x, int64_t num_heads, int64_t head_dim, int64_t num_rows,
                         bool takes_norm);
  void launch_heads(const PendingHeads& heads);
  bool is_pinned(std::span<const std::byte> bytes) const;
  void wait();
  void postpone(Rows y, int64_t num_rows, int64_t num_cols,
                std::function<void(const DeviceActivation& out)> launch);
  static AttentionBounds largest_step(const StepBounds& bounds);
  static AttentionBytes attention_room(const StepBounds& bounds, const AttentionBounds& step);
  void count_launch();
  LinearDevice linear_device() const;
  AttentionMemory attention_memory(const LayerAttention& shape,
                                   const AttentionBounds& bounds) const;

  std::unique_ptr<Device> device_;
  cpu::ThreadTeam team_;
  StepBounds bounds_;
  AttentionBounds step_;         // of the step at hand, for attention
  std::optional<int64_t> plan_;  // the sliding window that attention was planned for in this step
  Buffer attention_plan_, attention_counters_, attention_scratch_;
  Buffer products_, arrivals_;  // of gated_linear
  std::unique_ptr<StepInputs> inputs_;
  std::shared_ptr<std::byte> transfer_;  // pinned, for uploads and downloads of pageable memory
  std::vector<std::span<const std::byte>> pinned_;  // what allocate_host gave
  std::optional<Pending> pending_;
  std::vector<PendingHeads> pending_heads_;  // at most two; never with pending_
  bool is_deferring_ = false;
  int64_t num_launches_ = 0;
};

}  // namespace phalanx::kernels::cuda
