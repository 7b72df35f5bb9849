// The CPU backend: checks each call, spreads its rows over the rank's threads, dispatches to a
// tier. Made by make_cpu_operators; called by the graph executor.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/linear_tuning.h"
#include "kernels/cpu/row_chain.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/thread_team.h"
#include "kernels/cpu_backend.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cpu {

/// Contracts are those of Operators. Executor thread only.
class CpuOperators final : public Operators {
 public:
  explicit CpuOperators(const CpuBackendOptions& options);

  /// For products from now on; null: none. Changes no bits.
  void set_tunings(std::shared_ptr<const LinearTunings> tunings);

  std::string description() const override;
  void begin() override { is_deferring_ = true; }
  void finish() override;
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

 private:
  template <typename Body>
  void add_row_operator(int64_t num_rows, int64_t cost, std::initializer_list<RowMemory> memory,
                        const Body& body);
  template <typename Body>
  void add_row_operator_of_parts(int64_t num_rows, int64_t num_cols, const PartRows& parts,
                                 Rows residual, Rows y, const Body& body);

  const CpuBackendOptions options_;
  ThreadTeam team_;
  const RowKernels& rows_;
  Attention attention_;
  RowChain chain_;
  std::shared_ptr<const LinearTunings> tunings_;  // never null
  bool is_deferring_ = false;
};

}  // namespace phalanx::kernels::cpu
