// choose_victim.cpp: who gives way, by rank.
#include "runtime/scheduler/choose_victim.h"

#include <deque>

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

struct Running {
  explicit Running(const std::vector<std::vector<int>>& urgencies) {
    for (const std::vector<int>& line : urgencies) {
      std::vector<Sequence*>& out = lines.emplace_back();
      for (const int urgency : line) {
        Sequence& sequence = sequences.emplace_back();
        sequence.rank.urgency = urgency;
        out.push_back(&sequence);
      }
    }
  }
  PressureRelief relieve(int urgency) const {
    for (const Sequence& sequence : sequences)
      if (sequence.rank.urgency == urgency) return ChooseVictim()(lines, sequence);
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
      {{{1}}, 1, Pressure::kAlone, 0},
      {{{}, {1}, {}}, 1, Pressure::kAlone, 0},
      {{{1}, {2}}, 1, Pressure::kPreempt, 2},  // over all micro-batches
      {{{2}, {1}}, 2, Pressure::kYield, 0},
      {{{1, 4}, {2, 5}, {3, 6}}, 2, Pressure::kPreempt, 6},
      {{{1, 6}, {2, 5}, {3, 4}}, 2, Pressure::kPreempt, 6},
      {{{4, 5}, {1, 2, 3}}, 5, Pressure::kYield, 0},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    const Running running(cases[i].running);
    const PressureRelief relief = running.relieve(cases[i].wanting);
    EXPECT_EQ(relief.action, cases[i].action) << "case " << i;
    EXPECT_EQ(relief.victim == nullptr ? 0 : relief.victim->rank.urgency, cases[i].victim)
        << "case " << i;
  }
}

TEST(ChooseVictim, SomebodyMustRun) {
  const std::vector<std::vector<Sequence*>> nobody(2);
  EXPECT_THROW(ChooseVictim()(nobody, Sequence()), InternalError);
}

}  // namespace
}  // namespace phalanx
