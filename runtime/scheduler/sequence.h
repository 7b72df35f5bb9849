// A request on its way through the scheduler. Owned by Scheduler, read by its step algorithms.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "runtime/scheduler/kv_pool.h"
#include "runtime/scheduler/request.h"

namespace phalanx {

struct Client;

/// Who comes first, without regard to clients: lower is earlier. Ageing lifts all who wait alike,
/// so the order of two requests never changes: a level of priority is worth ageing_steps of
/// waiting.
struct Rank {
  int64_t urgency = 0;  ///< priority * ageing_steps + step of arrival
  RequestId id;
  auto operator<=>(const Rank&) const = default;  // NOLINT(modernize-use-nullptr)
};

enum class SequencePhase : uint8_t {
  kWaiting,    ///< in the queue, never admitted
  kRunning,    ///< has a slot and blocks
  kDraining,   ///< has neither, and waits for commits: all its tokens are planned, or it is
               ///< preempted
  kPreempted,  ///< in the queue, was admitted before
};

/// Tokens are counted as known (in `tokens`) and pending (drawn by a planned step that is not
/// committed); the sum is what plans see, so they do not depend on how far commits lag behind.
struct Sequence {
  RequestId id;
  SamplingParams sampling;
  int32_t priority = 0;
  uint64_t salt = 0;
  std::vector<int32_t> stop_token_ids;
  std::vector<int32_t> tokens;  ///< prompt, then generated
  int64_t num_prompt_tokens = 0;
  int64_t max_total_tokens = 0;  ///< the sequence ends when it has this many tokens
  int64_t num_pending = 0;
  int64_t num_computed = 0;  ///< positions whose KV is planned
  int64_t num_cached_tokens = 0;
  uint64_t arrival_step = 0;
  Rank rank;
  Client* client = nullptr;
  SequencePhase phase = SequencePhase::kWaiting;
  bool was_admitted = false;
  bool has_first_token = false;

  // While running:
  uint32_t slot = 0;
  uint32_t micro_batch = 0;
  bool slot_started = false;  ///< a plan has started the slot
  bool slot_sampled = false;  ///< the slot has drawn the token at position num_computed: it decodes
  int64_t reserved_blocks = 0;
  BlockTable table;

  // Of the last refused admission:
  int64_t wanted_blocks = 0;
  uint64_t refused_step = 0;

  int64_t num_known() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_total() const { return num_known() + num_pending; }
  bool is_fully_planned() const { return num_total() >= max_total_tokens; }
};

struct EarlierRank {
  bool operator()(const Sequence* a, const Sequence* b) const { return a->rank < b->rank; }
};

}  // namespace phalanx
