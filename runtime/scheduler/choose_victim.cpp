// The choice of a victim: the last by rank, of all micro-batches.
#include "runtime/scheduler/choose_victim.h"

namespace phalanx {

PressureRelief ChooseVictim::operator()(std::span<const std::vector<Sequence*>> running,
                                        const Sequence& wanting, uint64_t step) const {
  Sequence* victim = nullptr;
  bool has_others = false;
  bool has_later_rank = false;
  for (const std::vector<Sequence*>& sequences : running) {
    for (auto it = sequences.rbegin(); it != sequences.rend(); ++it) {
      Sequence* candidate = *it;
      if (candidate != &wanting || sequences.size() > 1) has_others = true;
      if (candidate->rank <= wanting.rank) break;
      has_later_rank = true;
      if (candidate->next_plan == static_cast<int64_t>(step) + 1) continue;
      if (victim == nullptr || victim->rank < candidate->rank) victim = candidate;
      break;
    }
  }
  if (victim != nullptr) return {Pressure::kPreempt, victim};
  if (has_later_rank) return {Pressure::kSkip, nullptr};
  return {has_others ? Pressure::kYield : Pressure::kAlone, nullptr};
}

}  // namespace phalanx
