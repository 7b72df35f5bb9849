// Runs this rank's part of the graph for one step: packs its weights at construction, then
// interprets its ops over the arena. Called by rank_worker; owns no policy.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/operators.h"
#include "kernels/peer_reducer.h"
#include "kernels/token_sampler.h"
#include "parallel/communicator.h"
#include "parallel/job_monitor.h"
#include "runtime/executor/kv_cache.h"
#include "runtime/executor/stage_plan.h"
#include "runtime/model/engine_file.h"

namespace phalanx {

/// Spans are the caller's for the duration of run().
using StepBatch = kernels::StepRows;

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
  /// Steps in which every sequence has one row are recorded for these numbers of sequences, where
  /// the backend records, and a step runs as the next larger one. Ascending.
  std::vector<int64_t> recorded_sizes;
  /// The backend draws tokens where it can, and the host only takes them: in jobs of one rank.
  bool draws_on_device = false;
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

  /// What draws instead of the host, or null. Then start() is called instead of run(): it enqueues
  /// the step, its draws and their way to the host, and take_draws() has its tokens.
  kernels::TokenSampler* token_sampler() const { return token_sampler_.get(); }
  void start(const StepBatch& batch);

  int64_t vocab_size() const;

 private:
  /// An op of the plan with its names resolved.
  struct BoundOp {
    const engine::Op* op = nullptr;
    std::vector<kernels::Rows> inputs;
    std::vector<kernels::Rows> outputs;
    const Placement* input = nullptr;   ///< of the first input; identifies the value
    const Placement* output = nullptr;  ///< of the first output
    bool reads_last = false;  ///< a linear: nobody reads the rows of its input but linears that
                              ///< take them in its form
    const FusedReduce* reduce = nullptr;
    const GatedLinear* gated = nullptr;
    const float* weight = nullptr;  ///< a vector (norms)
    const float* bias = nullptr;
    kernels::MatrixSource table;                          ///< of an embedding
    std::unique_ptr<const kernels::PackedMatrix> matrix;  ///< null: no outputs on this rank
  };

  void bind_ops();
  void find_last_reads();
  int64_t host_rows_bytes() const;
  void share_out_vocabulary();
  std::unique_ptr<kernels::PackedMatrix> pack(const engine::Op& op);
  void make_rope_table();
  const float* keep_vector(std::span<const float> values);
  kernels::MatrixSource keep_table(const kernels::MatrixSource& table);
  const std::byte* keep(std::span<const std::byte> bytes);
  void record_steps();
  void check_step(const StepBatch& batch) const;
  void enqueue(const StepBatch& batch);
  void run_ops(const StepBatch& batch);
  StepBatch padded(int64_t size) const;
  bool run_recorded(const StepBatch& batch);
  kernels::Rows rows_of(const Placement& place) const;
  void run_op(const BoundOp& bound, const StepBatch& batch);
  void run_linear(const BoundOp& bound, int64_t num_rows);
  void lend_parts();
  bool is_worth_sharing(int64_t num_rows) const;
  kernels::Rows part_of(int tp_rank) const;
  std::pair<int64_t, int64_t> row_share(int tp_rank, int64_t num_rows) const;
  void meet(const BoundOp& bound);
  void meet_peers();
  void end_of_ops();
  void run_reduce(const BoundOp& bound, int64_t num_rows);
  void reduce_on_device(const BoundOp& bound, int64_t num_rows);
  void all_reduce(std::span<float> data);
  void add_parts(const BoundOp& bound, int64_t first_row, int64_t num_rows, kernels::Rows y);
  void reduce_own_rows(const BoundOp& bound, int64_t num_rows);
  void run_attention(const BoundOp& bound, const StepBatch& batch);
  void receive_input(int64_t num_rows);
  void send_output(int64_t num_rows);
  std::span<std::byte> rows_on_host(kernels::Rows rows, int64_t num_rows);
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
  // Where the backend has memory of its own: what lies there besides the above, and the host's side
  // of what ranks exchange and of the logits.
  std::vector<std::shared_ptr<std::byte>> kept_;
  std::shared_ptr<std::byte> host_rows_;
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
  std::unique_ptr<kernels::PeerReducer> peer_reducer_;  ///< instead, where ranks meet on devices
  std::vector<const float*> parts_;  ///< what add_parts reads, until operators_.finish()

  /// The value whose rows converted_view_ shows, so that linears with one input convert it once: in
  /// `conversion_`, in `gated_rows_`, or, in a step whose ranks share rows, `shared_conversion_`.
  const Placement* converted_ = nullptr;
  kernels::ActivationView converted_view_;

  /// Steps of options_.recorded_sizes, and the inputs of one, filled up.
  std::vector<std::unique_ptr<kernels::RecordedOperators>> recorded_;
  std::vector<int32_t> padded_token_ids_;
  std::vector<int32_t> padded_positions_;
  std::vector<int32_t> padded_rows_;
  std::vector<kernels::SequenceRows> padded_sequences_;
  std::vector<uint32_t> padded_token_slots_;  ///< empty: the host draws
  std::vector<kernels::DrawRow> padded_draws_;
  std::unique_ptr<kernels::TokenSampler> token_sampler_;
};

}  // namespace phalanx
