// A request as the scheduler sees it, and what comes back for it.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "runtime/scheduler/step_plan.h"

namespace phalanx {

/// Unique within one leader's life; given by the leader, ascending.
struct RequestId {
  uint64_t value = 0;
  auto operator<=>(const RequestId&) const = default;  // NOLINT(modernize-use-nullptr)
};

struct Request {
  RequestId id;
  std::vector<int32_t> prompt_token_ids;  ///< at least one; each in [0, vocab_size)
  SamplingParams sampling;
  int64_t max_tokens = 16;              ///< tokens to generate at most; at least 1
  std::vector<int32_t> stop_token_ids;  ///< end-of-sequence ids and the request's own
  int32_t priority = 0;                 ///< lower runs earlier; ageing lifts the waiting
  std::string client;                   ///< who asks, for fairness; may be empty
  uint64_t cache_salt = 0;              ///< requests with different salts share no cached blocks
};

enum class FinishReason : uint8_t {
  kStop,       ///< a stop token (not part of the output)
  kLength,     ///< max_tokens or the model's context is reached
  kCancelled,  ///< cancel() was called
  kError,      ///< it can never fit, or the job fails
};

struct TopLogprob {
  int32_t token_id = 0;
  float logprob = 0.0F;
  bool operator==(const TopLogprob&) const = default;
};

/// A sampled token as the sampler rank reports it.
struct SampledToken {
  uint32_t slot = 0;
  int32_t token_id = 0;
  float logprob = 0.0F;                    ///< natural log, of the unmodified distribution
  std::vector<TopLogprob> top_logprobs{};  ///< descending; empty unless asked for
  uint64_t logits_digest = 0;  ///< hash of the raw logits' bits, when the job reports digests
  bool operator==(const SampledToken&) const = default;
};

/// Everything sampled in a step, in the order of the plan's sampling sequences.
struct StepResult {
  uint64_t step = 0;
  std::vector<SampledToken> tokens;
};

/// What a commit (or a cancel, or a plan) means for one request: at most one token, at most one
/// end.
struct RequestUpdate {
  RequestId id;
  bool has_token = false;
  SampledToken token;
  bool finished = false;
  FinishReason reason = FinishReason::kStop;
  std::string error;  ///< for kError
  int64_t num_cached_tokens =
      0;  ///< prompt tokens served by the prefix cache (with the first token)
};

}  // namespace phalanx

template <>
struct std::hash<phalanx::RequestId> {
  size_t operator()(const phalanx::RequestId& id) const noexcept {
    return std::hash<uint64_t>{}(id.value);
  }
};
