// The choice of a victim: the last by rank, of all micro-batches.
#include "runtime/scheduler/choose_victim.h"

#include "runtime/base/check.h"

namespace phalanx {

PressureRelief ChooseVictim::operator()(std::span<const std::vector<Sequence*>> running,
                                        const Sequence& wanting) const {
  Sequence* last = nullptr;
  size_t num_running = 0;
  for (const std::vector<Sequence*>& line : running) {
    num_running += line.size();
    if (!line.empty() && (last == nullptr || last->rank < line.back()->rank)) last = line.back();
  }
  PHALANX_CHECK(last != nullptr, "a sequence in need that does not run");
  if (last != &wanting) return {Pressure::kPreempt, last};
  return {num_running > 1 ? Pressure::kYield : Pressure::kAlone, nullptr};
}

}  // namespace phalanx
