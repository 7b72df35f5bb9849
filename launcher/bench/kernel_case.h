// One kernel at one shape, ready to be called again and again: what llm-bench kernels times, and
// what it compares with the reference. Made by the functions below; called by kernels.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/operators.h"
#include "launcher/bench/kernel_shapes.h"
#include "launcher/bench/machine_limits.h"

namespace phalanx::bench {

/// What one call must at least do.
struct KernelCost {
  double ops = 0;    ///< multiplies and adds, two a multiply-add; 0 where bytes alone count
  double bytes = 0;  ///< read or written, each once
  /// Bytes that successive calls walk through before they meet the same ones again.
  double footprint_bytes = 0;
  PeakKind peak = PeakKind::kF32;  ///< instruction of the ops
};

/// Owns its inputs and outputs. What row `id` of an input holds depends on the id alone, so a case
/// over some of another's rows, on another backend, must give the same rows. Not thread safe.
class KernelCase {
 public:
  virtual ~KernelCase() = default;
  /// One call of the kernel, on the next of its copies.
  virtual void run() = 0;
  /// What the last run() gave for the i-th of its rows, as numbers that are compared.
  virtual std::vector<float> output_row(size_t i) const = 0;
  const KernelCost& cost() const { return cost_; }

 protected:
  KernelCost cost_;
};

using RowIds = std::vector<int64_t>;

/// Random numbers in [-1, 1], the same for the same id and seed everywhere.
void fill_row(uint64_t seed, int64_t id, int64_t count, float* out);

/// f32 rows with the contents of their ids, in a backend's memory.
class CaseRows {
 public:
  CaseRows(kernels::Operators& operators, uint64_t seed, const RowIds& ids, int64_t num_cols);

  float* data() const { return reinterpret_cast<float*>(memory_.get()); }
  kernels::Rows rows() const { return {data(), num_cols_}; }
  int64_t num_rows() const { return num_rows_; }
  int64_t num_cols() const { return num_cols_; }
  double bytes() const { return 4.0 * static_cast<double>(num_rows_ * num_cols_); }
  std::vector<float> row(size_t i) const;

 private:
  int64_t num_rows_, num_cols_;
  std::shared_ptr<std::byte> memory_;
};

// ---------------------------------------------------------------------------------- linears ----

/// Copies of one packed matrix, so many that calls in turn find none of them in a cache smaller
/// than `footprint_bytes`. Its rows repeat after 1021, so that little memory makes a large matrix.
class LinearWeights {
 public:
  LinearWeights(kernels::Operators& operators, const MatrixShape& shape,
                kernels::WeightFormat format, int64_t group_size, int64_t footprint_bytes);

  const kernels::PackedMatrix& next() { return *copies_[next_++ % copies_.size()]; }
  const kernels::PackedMatrix& first() const { return *copies_.front(); }
  int64_t num_copies() const { return static_cast<int64_t>(copies_.size()); }

 private:
  std::vector<std::unique_ptr<kernels::PackedMatrix>> copies_;
  size_t next_ = 0;
};

std::unique_ptr<KernelCase> make_linear_case(kernels::Operators& operators,
                                             std::shared_ptr<LinearWeights> weights,
                                             const RowIds& rows);
/// The output is what out holds, as for make_convert_case, in `form` and groups of out_group_size.
std::unique_ptr<KernelCase> make_gated_linear_case(kernels::Operators& operators,
                                                   std::shared_ptr<LinearWeights> weights,
                                                   kernels::ActivationForm form,
                                                   int64_t out_group_size, const RowIds& rows);
std::unique_ptr<KernelCase> make_convert_case(kernels::Operators& operators,
                                              kernels::WeightFormat format, int64_t num_cols,
                                              int64_t group_size, const RowIds& rows);
/// Each row's token is a scrambled id, so that rows of the table come from all over it.
std::unique_ptr<KernelCase> make_embedding_case(kernels::Operators& operators,
                                                kernels::WeightFormat format, int64_t vocab_size,
                                                int64_t num_cols, int64_t group_size,
                                                const RowIds& rows);

// -------------------------------------------------------------------------------- attention ----

/// One layer's KV pool, full: logical block l holds the same tokens in every pool, somewhere.
class KvPool {
 public:
  KvPool(kernels::Operators& operators, const KernelShape& shape, kernels::KvFormat format,
         int64_t num_blocks);

  const kernels::KvLayerView& view() const { return view_; }
  /// Block table of the logical blocks from `logical` on, as many as the pool has; they count
  /// round and round.
  const int32_t* table(int64_t logical) const {
    return physical_.data() + logical % view_.num_blocks;
  }
  const KernelShape& shape() const { return shape_; }
  double bytes_per_token() const;  ///< of all KV heads

 private:
  KernelShape shape_;
  std::shared_ptr<std::byte> memory_;
  kernels::KvLayerView view_;
  std::vector<int32_t> physical_;  ///< of each logical block, twice over
};

/// One query a sequence, each of which sees `context` tokens. Calls walk through the pool.
std::unique_ptr<KernelCase> make_decode_case(kernels::Operators& operators,
                                             std::shared_ptr<KvPool> pool, int64_t context,
                                             const RowIds& sequences);
/// Queries of one sequence at the positions `rows`: a prompt's first chunk when they are 0, 1, ...
std::unique_ptr<KernelCase> make_prefill_case(kernels::Operators& operators,
                                              std::shared_ptr<KvPool> pool, const RowIds& rows);
/// Stores a sequence's tokens from the first to the largest of `rows`. What it stored shows in the
/// attention of those in `rows`.
std::unique_ptr<KernelCase> make_write_kv_case(kernels::Operators& operators,
                                               std::shared_ptr<KvPool> pool, const RowIds& rows);

// ------------------------------------------------------------------------------------- rows ----

std::unique_ptr<KernelCase> make_rms_norm_case(kernels::Operators& operators, int64_t num_cols,
                                               const RowIds& rows);
/// The output is y; the residual grows from call to call, and is fresh before the first.
std::unique_ptr<KernelCase> make_add_rms_norm_case(kernels::Operators& operators, int64_t num_cols,
                                                   const RowIds& rows);
std::unique_ptr<KernelCase> make_rope_case(kernels::Operators& operators, const KernelShape& shape,
                                           const RowIds& rows);
std::unique_ptr<KernelCase> make_silu_mul_case(kernels::Operators& operators,
                                               int64_t intermediate_size, const RowIds& rows);

}  // namespace phalanx::bench
