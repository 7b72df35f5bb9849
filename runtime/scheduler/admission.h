// Whether a waiting sequence gets its blocks now. Called by the scheduler.
#pragma once

#include <cstdint>

#include "runtime/scheduler/kv_pool.h"
#include "runtime/scheduler/scheduler.h"
#include "runtime/scheduler/sequence.h"

namespace phalanx {

enum class Admission : uint8_t {
  kNow,
  kLater,  ///< when others have given blocks back
  kNever,  ///< the whole pool is too small
};

/// A sequence is admitted with blocks for all its known tokens, so that only decodes need more
/// later. kMaxUtilization leaves some blocks to the running sequences, lest the newcomer is
/// preempted at once; kGuaranteedNoEvict counts every running sequence at its longest, and shared
/// blocks for each that shares them, so that nobody ever runs out.
struct DecideAdmission {
  /// A refused sequence with as many free blocks as then is asked again after this many steps: the
  /// cache may have gained its prefix, and looking costs a walk over its tokens.
  static constexpr uint64_t kLookAgainSteps = 8;

  SchedulingPolicy policy = SchedulingPolicy::kMaxUtilization;

  /// num_running, reserved_blocks: over all running sequences. On kNow `match` holds the cached
  /// prefix; on kLater the sequence remembers what it wanted.
  Admission operator()(const KvPool& pool, int64_t num_running, int64_t reserved_blocks,
                       uint64_t step, Sequence* sequence, PrefixMatch* match) const;

  /// Blocks of the sequence at its longest; its last token is never computed.
  static int64_t blocks_at_most(const KvPool& pool, const Sequence& sequence) {
    return pool.blocks_for(sequence.max_total_tokens - 1);
  }
};

}  // namespace phalanx
