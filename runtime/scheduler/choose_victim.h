// Whom to preempt when no block is free. Called by the scheduler.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/scheduler/sequence.h"

namespace phalanx {

/// What happens when a running sequence needs a block and none is free.
enum class Pressure : uint8_t {
  kPreempt,  ///< the victim gives its blocks back
  kYield,    ///< it is itself the last by rank of several: it gives its own back
  kAlone,    ///< nobody else holds blocks: it cannot go on
};

struct PressureRelief {
  Pressure action = Pressure::kAlone;
  Sequence* victim = nullptr;  ///< for kPreempt: the last by rank of all micro-batches
};

/// Decodes are planned by rank and before all else, so a victim is not yet part of the step.
struct ChooseVictim {
  /// running: per micro-batch, ascending by rank. wanting: the running sequence in need.
  PressureRelief operator()(std::span<const std::vector<Sequence*>> running,
                            const Sequence& wanting) const;
};

}  // namespace phalanx
