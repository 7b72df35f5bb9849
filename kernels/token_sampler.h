// Drawing tokens where the logits are, without the host. Made by Operators::make_token_sampler;
// called by the graph executor and the rank worker.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "kernels/operators.h"

namespace phalanx::kernels {

/// How a sequence's tokens are drawn: SamplingParams of the step plan, field by field.
struct DrawParams {
  float temperature = 1.0F;  ///< 0: greedy
  int32_t top_k = 0;         ///< 0: off
  float top_p = 1.0F;
  float min_p = 0.0F;
  uint64_t seed = 0;
  float repetition_penalty = 1.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  int32_t num_top_logprobs = -1;  ///< -1: no logprobs; at most kMostTopLogprobs

  bool has_penalties() const {
    return repetition_penalty != 1.0F || presence_penalty != 0.0F || frequency_penalty != 0.0F;
  }
};
inline constexpr int kMostTopLogprobs = 20;

enum class DrawStatus : int32_t {
  kNothing,           ///< a row of kNoSlot
  kDrawn,             ///< the other fields tell
  kNoFiniteLogit,     ///< nothing was drawn
  kNothingPenalized,  ///< penalties left no finite logit; nothing was drawn
  kNotStarted,        ///< the slot; nothing was drawn
};

/// What came of a row.
struct DrawnToken {
  DrawStatus status;
  int32_t token_id;
  float logprob;    ///< 0 unless asked for
  int32_t num_top;  ///< of the two below, by rank
  int32_t top_tokens[kMostTopLogprobs];
  float top_logprobs[kMostTopLogprobs];
};

/// Throws the InternalError of phalanx::Sampler unless a token was drawn.
void require_drawn(const DrawnToken& draw, uint32_t slot, int64_t position);

/// Draws what phalanx::Sampler draws from the same logits, parameters, history and position, by ==.
/// Everything is an operator: in order with the others, done when the operators have finished. The
/// executor's thread.
class TokenSampler {
 public:
  virtual ~TokenSampler() = default;

  /// Begins a sequence in a slot. history is read before this returns, and only when the parameters
  /// have penalties; the first num_prompt_tokens of it are the prompt. Not to be recorded. Errors:
  /// InternalError for a slot or token out of range.
  virtual void start(uint32_t slot, const DrawParams& params, std::span<const int32_t> history,
                     int64_t num_prompt_tokens) = 0;
  virtual void release(uint32_t slot) = 0;

  /// Puts into a staged step's token ids what their rows' slots drew last.
  virtual void feed_back(const StepRows& staged) = 0;
  /// Draws from row i of the logits as staged.draws[i] says, and remembers the token.
  virtual void draw(ConstRows logits, const StepRows& staged) = 0;

  /// Starts to bring the drawn tokens of the last step, [num_rows], to the host: at most
  /// kMostStepsInFlight steps are under way at a time. Not to be recorded.
  virtual void send_draws(int64_t num_rows) = 0;
  /// Whether the oldest step under way has come.
  virtual bool has_draws() = 0;
  /// Waits for it and takes it; valid until two more were taken.
  virtual std::span<const DrawnToken> take_draws() = 0;
};
inline constexpr int kMostStepsInFlight = 2;

}  // namespace phalanx::kernels
