// Runs this rank's part of the graph for one step: packs its weights at construction, then
// interprets its ops over the arena. Called by rank_worker; owns no policy.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/operators.h"
#include "parallel/communicator.h"
#include "parallel/job_monitor.h"
#include "runtime/executor/kv_cache.h"
#include "runtime/executor/stage_plan.h"
#include "runtime/model/engine_file.h"

namespace phalanx {

/// A step as rows. Spans are the caller's for the duration of run().
struct StepBatch {
  std::span<const int32_t> token_ids;                ///< [R]; read on the first stage only
  std::span<const int32_t> positions;                ///< [R]
  std::span<const kernels::SequenceRows> sequences;  ///< cover the R rows in order
  std::span<const int32_t> sampled_rows;             ///< rows whose logits are wanted, ascending
};

/// The groups a rank talks in. tp: the ranks of its stage; pp: the same tp_rank of every stage
/// (null when pp_size is 1).
struct ExecutorGroups {
  parallel::Communicator* tensor = nullptr;
  parallel::Communicator* pipeline = nullptr;
};

struct ExecutorOptions {
  StepLimits limits;
  kernels::KvFormat kv_format = kernels::KvFormat::kF32;
  int64_t num_kv_blocks = 0;
  /// Ranks share the rows of a step whose part of a sum is longer than this; kMaxUnsharedBytes is
  /// the most that counts. Default: what a meeting of the group is worth.
  std::optional<int64_t> unshared_bytes;
};

/// Executor thread only. Everything is allocated by the constructor; run() allocates nothing of its
/// own. Throws InternalError or DeviceError: the rank cannot go on after either.
class GraphExecutor {
 public:
  GraphExecutor(std::shared_ptr<const model::EngineFile> engine,
                const parallel::RankTopology& topology, const ExecutorOptions& options,
                const ExecutorGroups& groups, kernels::Operators& operators,
                parallel::Progress& progress);

  /// Computes the step. On the sampler rank the result has a row of [vocab_size] logits for each
  /// sampled row (valid until the next run, and writable: the sampler works in place); elsewhere
  /// the result is empty.
  kernels::Rows run(const StepBatch& batch);

  int64_t vocab_size() const;

 private:
  /// An op of the plan with its names resolved.
  struct BoundOp {
    const engine::Op* op = nullptr;
    std::vector<kernels::Rows> inputs;
    std::vector<kernels::Rows> outputs;
    const Placement* input = nullptr;   ///< of the first input; identifies the value
    const Placement* output = nullptr;  ///< of the first output
    const FusedReduce* reduce = nullptr;
    const GatedLinear* gated = nullptr;
    const float* weight = nullptr;  ///< a vector (norms)
    const float* bias = nullptr;
    kernels::MatrixSource table;                          ///< of an embedding
    std::unique_ptr<const kernels::PackedMatrix> matrix;  ///< null: no outputs on this rank
  };

  void bind_ops();
  void share_out_vocabulary();
  std::unique_ptr<kernels::PackedMatrix> pack(const engine::Op& op);
  void make_rope_table();
  kernels::Rows rows_of(const Placement& place) const;
  void run_op(const BoundOp& bound, const StepBatch& batch);
  void run_linear(const BoundOp& bound, int64_t num_rows);
  void lend_parts();
  bool is_worth_sharing(int64_t num_rows) const;
  kernels::Rows part_of(int tp_rank) const;
  std::pair<int64_t, int64_t> row_share(int tp_rank, int64_t num_rows) const;
  void meet(const BoundOp& bound);
  void run_reduce(const BoundOp& bound, int64_t num_rows);
  void add_parts(const BoundOp& bound, int64_t first_row, int64_t num_rows, kernels::Rows y);
  void reduce_own_rows(const BoundOp& bound, int64_t num_rows);
  void run_attention(const BoundOp& bound, const StepBatch& batch);
  void receive_input(int64_t num_rows);
  void send_output(int64_t num_rows);
  kernels::Rows gather_logits(int64_t num_rows);

  std::shared_ptr<const model::EngineFile> engine_;
  parallel::RankTopology topology_;
  ExecutorOptions options_;
  ExecutorGroups groups_;
  kernels::Operators& operators_;
  parallel::Progress& progress_;
  StagePlan plan_;
  KvCache kv_cache_;

  std::vector<BoundOp> ops_;
  std::shared_ptr<std::byte> arena_;
  std::shared_ptr<std::byte> conversion_;
  std::shared_ptr<std::byte> gated_rows_;
  std::shared_ptr<std::byte> rope_memory_;
  std::shared_ptr<std::byte> logits_memory_;
  kernels::RopeTable rope_;
  std::vector<int64_t> logits_cols_;  ///< [tp_size]: each rank's share of the vocabulary
  std::vector<size_t> logits_bytes_;  ///< [tp_size]: of a step, in gather_logits
  // Sums over the ranks of the stage (FusedReduce). Each rank's region holds its part of a long
  // step, then of two short ones by turns: a rank may write the next part while another still reads
  // the last one, as they meet once for each.
  std::vector<std::byte*> part_regions_;     ///< [tp_size]; empty: peers cannot read each other's
  std::shared_ptr<std::byte> private_part_;  ///< then it lies here
  std::byte* shared_conversion_ = nullptr;   ///< rows that the ranks convert for each other
  bool shares_rows_ = false;                 ///< in this step each rank sums rows of its own
  int64_t part_turn_ = 0;
  std::vector<const float*> parts_;  ///< what add_parts reads, until operators_.finish()

  /// The value whose rows converted_view_ shows, so that linears with one input convert it once: in
  /// `conversion_`, in `gated_rows_`, or, in a step whose ranks share rows, `shared_conversion_`.
  const Placement* converted_ = nullptr;
  kernels::ActivationView converted_view_;
};

}  // namespace phalanx
