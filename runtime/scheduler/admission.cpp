// The decision on a waiting sequence's blocks.
#include "runtime/scheduler/admission.h"

#include <algorithm>

namespace phalanx {
namespace {

// Left free for running sequences: a block for each, but at most a small share of the pool.
int64_t headroom_blocks(const KvPool& pool, int64_t num_running) {
  constexpr int64_t kPoolShare = 32;
  return std::min(num_running, std::max<int64_t>(1, pool.num_blocks() / kPoolShare));
}

}  // namespace

Admission DecideAdmission::operator()(const KvPool& pool, int64_t num_running,
                                      int64_t reserved_blocks, uint64_t step, Sequence* sequence,
                                      PrefixMatch* match) const {
  const int64_t known_blocks = pool.blocks_for(sequence->num_known());
  switch (policy) {
    case SchedulingPolicy::kGuaranteedNoEvict: {
      const int64_t most = blocks_at_most(pool, *sequence);
      if (most > pool.num_blocks()) return Admission::kNever;
      if (reserved_blocks + most > pool.num_blocks()) return Admission::kLater;
      pool.match(sequence->salt, sequence->tokens, match);
      return Admission::kNow;
    }
    case SchedulingPolicy::kMaxUtilization:
      break;
  }
  if (known_blocks > pool.num_blocks()) return Admission::kNever;
  const bool was_refused = sequence->wanted_blocks > 0;
  if (was_refused && num_running > 0 && pool.num_free() < sequence->wanted_blocks &&
      step < sequence->refused_step + kLookAgainSteps)
    return Admission::kLater;
  pool.match(sequence->salt, sequence->tokens, match);
  const int64_t wanted = known_blocks - static_cast<int64_t>(match->blocks.size()) +
                         match->num_unreferenced + headroom_blocks(pool, num_running);
  if (wanted <= pool.num_free()) {
    sequence->wanted_blocks = 0;
    return Admission::kNow;
  }
  sequence->wanted_blocks = wanted;
  sequence->refused_step = step;
  return Admission::kLater;
}

}  // namespace phalanx
