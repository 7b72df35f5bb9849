// choose_victim.cpp: who gives way, by rank and by what is part of the step.
#include "runtime/scheduler/choose_victim.h"

#include <deque>

#include <gtest/gtest.h>

namespace phalanx {
namespace {

constexpr uint64_t kStep = 9;

// Sequences by urgency; negative: already part of the step.
struct Running {
  explicit Running(const std::vector<std::vector<int>>& urgencies) {
    for (const std::vector<int>& line : urgencies) {
      std::vector<Sequence*>& out = lines.emplace_back();
      for (const int urgency : line) {
        Sequence& sequence = sequences.emplace_back();
        sequence.rank.urgency = std::abs(urgency);
        sequence.next_plan = urgency < 0 ? kStep + 1 : kStep;
        out.push_back(&sequence);
      }
    }
  }
  PressureRelief relieve(int urgency) const {
    for (const Sequence& sequence : sequences)
      if (sequence.rank.urgency == urgency) return ChooseVictim()(lines, sequence, kStep);
    return {};
  }
  std::deque<Sequence> sequences;
  std::vector<std::vector<Sequence*>> lines;
};

TEST(ChooseVictim, FollowsTheTable) {
  struct Case {
    std::vector<std::vector<int>> running;
    int wanting;
    Pressure action;
    int victim;
  };
  const std::vector<Case> cases = {
      {{{1, 2, 3}}, 1, Pressure::kPreempt, 3},
      {{{1, 2, 3}}, 2, Pressure::kPreempt, 3},
      {{{1, 2, 3}}, 3, Pressure::kYield, 0},
      {{{1, 2, -3}}, 1, Pressure::kPreempt, 2},  // 3 is part of the step
      {{{1, -2, -3}}, 1, Pressure::kSkip, 0},    // so are all later ranks
      {{{-1, -2, 3}}, 3, Pressure::kYield, 0},
      {{{1}}, 1, Pressure::kAlone, 0},
      {{{1}, {}, {}}, 1, Pressure::kAlone, 0},
      {{{1}, {2}}, 1, Pressure::kPreempt, 2},  // over all micro-batches
      {{{2}, {1}}, 2, Pressure::kYield, 0},
      {{{1, 4}, {2, 5}, {3, 6}}, 2, Pressure::kPreempt, 6},
      {{{1, 4}, {2, 5}, {3, -6}}, 4, Pressure::kPreempt, 5},
      {{{1, 4}, {2, -5}, {3, -6}}, 4, Pressure::kSkip, 0},
      {{{4, 5}, {1, 2, 3}}, 5, Pressure::kYield, 0},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    const PressureRelief relief = Running(cases[i].running).relieve(cases[i].wanting);
    EXPECT_EQ(relief.action, cases[i].action) << "case " << i;
    const Running running(cases[i].running);
    const PressureRelief again = running.relieve(cases[i].wanting);
    EXPECT_EQ(again.victim == nullptr ? 0 : again.victim->rank.urgency, cases[i].victim)
        << "case " << i;
  }
}

}  // namespace
}  // namespace phalanx
