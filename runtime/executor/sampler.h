// Draws tokens from logits on the sampler rank. Called by rank_worker after the last stage.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/scheduler/step_plan.h"

namespace phalanx {

/// A drawn token and what was asked to be told about it.
struct Draw {
  int32_t token_id = 0;
  float logprob = 0.0F;  ///< log softmax of the raw logits at token_id
  std::vector<std::pair<int32_t, float>> top_logprobs;  ///< (token, logprob), descending
};

/// Per-slot sampling state (parameters, token counts for penalties). Executor thread only, but for
/// sample(), which the caller may spread over threads: distinct slots are independent.
/// Order of operations: penalties (repetition, presence, frequency) -> temperature -> top-k ->
/// top-p -> min-p -> draw by inverse CDF over tokens in descending probability (ties: lower id
/// first) with u = uniform(philox4x32-10(key = seed, counter = position)). Probabilities are
/// integers in units of 2^-43 of the best token's (kernels/sampling_math.h), so that a GPU draws
/// the same tokens (kernels/cuda/device_sampler.h). Greedy: the largest
/// logit, ties to the lower id. A NaN logit never wins; if no finite logit exists: InternalError.
class Sampler {
 public:
  /// vocab_size is at most 2^20.
  Sampler(int64_t vocab_size, int64_t max_slots);
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  void start(uint32_t slot, const SequenceStart& start);
  void release(uint32_t slot);

  /// Prompt tokens of this slot's chunk are not needed: history comes with start().
  /// logits: [vocab_size], overwritten. position: of the token being drawn (so position p's draw is
  /// the same however the sequence got there). The drawn token is added to the slot's history.
  Draw sample(uint32_t slot, std::span<float> logits, int64_t position);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Philox4x32-10 (Salmon et al., SC 2011): uniform in [0, 1) with 24 bits from (seed, position).
float counter_uniform(uint64_t seed, uint64_t position);

}  // namespace phalanx
