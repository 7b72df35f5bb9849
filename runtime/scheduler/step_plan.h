// The step plan: what the leader tells every rank to compute next. Written by the scheduler,
// carried by the step channel, obeyed (and checked) by rank_worker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace phalanx {

/// How the next token is drawn. Ranges are those the API accepts (checked there and on decode).
struct SamplingParams {
  float temperature = 1.0F;         ///< 0: greedy. [0, 100]
  int32_t top_k = 0;                ///< 0: off. [0, 2^20]
  float top_p = 1.0F;               ///< (0, 1]
  float min_p = 0.0F;               ///< [0, 1]
  uint64_t seed = 0;                ///< the generator is keyed by (seed, position): nothing else
  float repetition_penalty = 1.0F;  ///< (0, 100]; over prompt and output
  float presence_penalty = 0.0F;    ///< [-2, 2]; over output
  float frequency_penalty = 0.0F;   ///< [-2, 2]; over output
  int32_t num_top_logprobs =
      -1;  ///< -1: no logprobs; else the sampled token's and this many top ones. [-1, 20]

  bool has_penalties() const {
    return repetition_penalty != 1.0F || presence_penalty != 0.0F || frequency_penalty != 0.0F;
  }
  bool operator==(const SamplingParams&) const = default;
};

/// First mention of a sequence in a slot.
struct SequenceStart {
  SamplingParams sampling;
  /// All tokens the sampler must know for penalties: empty unless sampling.has_penalties(). The
  /// first num_prompt_tokens are the prompt, the rest were generated before a preemption.
  std::vector<int32_t> history;
  int32_t num_prompt_tokens = 0;
  bool operator==(const SequenceStart&) const = default;
};

/// One sequence's share of a step.
struct SequencePlan {
  uint32_t slot = 0;    ///< index of the sequence's state on every rank; reused after release
  bool starts = false;  ///< the slot begins a new sequence (or one that was preempted)
  SequenceStart start;  ///< meaningful when `starts`
  /// Tokens to compute, at positions first_position... Empty: one row, the token that this slot
  /// sampled in its previous sampling step (which the leader may not have seen yet).
  std::vector<int32_t> token_ids;
  int64_t first_position = 0;
  /// Ids to append to the slot's block table (for `starts`: the whole table so far, cached blocks
  /// first).
  std::vector<int32_t> appended_block_ids;
  bool samples = false;  ///< draw a token from the last row's logits

  int64_t num_rows() const {
    return token_ids.empty() ? 1 : static_cast<int64_t>(token_ids.size());
  }
  bool operator==(const SequencePlan&) const = default;
};

struct StepPlan {
  uint64_t step = 0;           ///< 0, 1, 2, ... without gaps
  uint64_t previous_hash = 0;  ///< plan_hash of the step before (0 for step 0): workers check it
  uint32_t micro_batch = 0;    ///< step % pp_size
  std::vector<uint32_t> released_slots;  ///< forgotten before this step's sequences are read
  std::vector<SequencePlan> sequences;
  bool stop = false;  ///< the last plan: ranks leave their loop after it

  int64_t num_rows() const {
    int64_t rows = 0;
    for (const auto& sequence : sequences) rows += sequence.num_rows();
    return rows;
  }
  bool operator==(const StepPlan&) const = default;
};

/// Wire form (protobuf, step_plan.proto). Deltas only: a decoding sequence costs a few bytes.
std::string encode_step_plan(const StepPlan& plan);

/// Errors: kDataLoss when bytes are not a plan, or a value is outside its range.
Result<StepPlan> decode_step_plan(std::span<const std::byte> bytes);

/// 64-bit hash of an encoded plan; since each plan holds its predecessor's, it covers the history.
uint64_t step_plan_hash(std::span<const std::byte> encoded);

}  // namespace phalanx
