// Whom to preempt when no block is free. Called by the scheduler.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/scheduler/sequence.h"

namespace phalanx {

/// What a running sequence does that needs a block when none is free.
enum class Pressure : uint8_t {
  kPreempt,  ///< preempt the victim: the last by rank that is not part of this step
  kYield,    ///< it is itself the last by rank of several: it is preempted
  kSkip,     ///< it sits out this step: later ranks are part of the step, which makes progress
  kAlone,    ///< nobody else holds blocks: it cannot go on
};

struct PressureRelief {
  Pressure action = Pressure::kAlone;
  Sequence* victim = nullptr;  ///< for kPreempt
};

struct ChooseVictim {
  /// running: per micro-batch, ascending by rank. wanting: the sequence in need, not (yet) part of
  /// step `step`. Cost: the number of micro-batches plus the later ranks that are part of the step.
  PressureRelief operator()(std::span<const std::vector<Sequence*>> running,
                            const Sequence& wanting, uint64_t step) const;
};

}  // namespace phalanx
