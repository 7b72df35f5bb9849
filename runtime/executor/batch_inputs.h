// A rank's memory of the sequences in its slots, and the rows of the current step made from a plan.
// Owned by rank_worker.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/operators.h"
#include "runtime/executor/stage_plan.h"
#include "runtime/scheduler/step_plan.h"

namespace phalanx {

/// A row whose logits are wanted.
struct SamplingRow {
  uint32_t slot = 0;
  int32_t row = 0;
  int64_t position = 0;  ///< of the token to be drawn: the row's position + 1
};

/// A row that computes the token its slot sampled before.
struct FedBackRow {
  uint32_t slot = 0;
  int32_t row = 0;
  int64_t step = 0;  ///< the step that drew it
};

/// Executor thread only. Memory is sized by the constructor.
class BatchInputs {
 public:
  /// limits.max_sequences slots, each with room for limits.max_positions tokens of blocks.
  BatchInputs(const StepLimits& limits, int64_t num_blocks);

  /// Releases and starts slots, appends blocks, lays out rows. Errors: InternalError when the plan
  /// contradicts what the slots hold (positions with gaps, a block id outside the pool, a table
  /// that does not cover its rows, an unknown slot): the leader and this rank disagree.
  void apply(const StepPlan& plan);

  /// Remembers a drawn token, if the slot still holds the sequence that drew it in `step`. In the
  /// order of steps.
  void set_sampled(uint32_t slot, uint64_t step, int32_t token_id);

  /// Writes the token ids of the rows that feed back, in fed_back() order; ids.size() as there.
  void fill_fed_back(std::span<const int32_t> token_ids);
  /// The tokens those rows' slots sampled last. Errors: InternalError when one is not known yet.
  void collect_fed_back(std::vector<int32_t>& token_ids) const;
  /// The latest step whose samples this step's rows need, or -1.
  int64_t newest_needed_step() const { return newest_needed_step_; }

  std::span<const int32_t> token_ids() const { return token_ids_; }
  std::span<const int32_t> positions() const { return positions_; }
  std::span<const kernels::SequenceRows> sequences() const { return sequences_; }
  std::span<const int32_t> sampled_rows() const { return sampled_rows_; }
  std::span<const SamplingRow> sampling() const { return sampling_; }
  std::span<const FedBackRow> fed_back() const { return fed_back_; }
  /// The step for a backend that draws: fed-back rows name their slots, sampled rows their draws.
  kernels::StepRows rows_with_draws();

 private:
  struct Slot {
    bool active = false;
    std::vector<int32_t> block_table;
    int64_t num_tokens = 0;            ///< computed, counting the current step
    int64_t start_step = 0;            ///< results of earlier steps are another sequence's
    int64_t last_sampling_step = -1;   ///< as planned
    int64_t known_sampling_step = -1;  ///< the step last_token is of
    int32_t last_token = -1;
  };

  void apply_sequence(const SequencePlan& sequence, uint64_t step);

  StepLimits limits_;
  int64_t num_blocks_;
  std::vector<Slot> slots_;
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> positions_;
  std::vector<kernels::SequenceRows> sequences_;
  std::vector<int32_t> sampled_rows_;
  std::vector<SamplingRow> sampling_;
  std::vector<FedBackRow> fed_back_;
  std::vector<uint32_t> token_slots_;
  std::vector<kernels::DrawRow> draws_;
  int64_t newest_needed_step_ = -1;
};

}  // namespace phalanx
