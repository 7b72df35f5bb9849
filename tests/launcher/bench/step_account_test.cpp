// A track cut into steps: operations add up, steps with other work are left out.
#include "launcher/bench/step_account.h"

#include <numeric>

#include <gtest/gtest.h>

namespace phalanx::bench {
namespace {

using Span = TraceRecorder::Span;

class StepAccountTest : public testing::Test {
 protected:
  void add(const char* name, int64_t microseconds) {
    spans_.push_back({name, -1, now_, now_ + microseconds * 1000});
    now_ = spans_.back().end_ns;
  }
  void add_step(int64_t scale) {
    add("plan", 1 * scale);
    add("linear", 10 * scale);
    add("norm", 2 * scale);
    add("linear", 20 * scale);
    add("wait", 3 * scale);
  }
  std::vector<Span> spans_;
  int64_t now_ = 1'000'000;
};

TEST_F(StepAccountTest, AddsUpOperationsOfEachStep) {
  add("load", 5000);
  add_step(1);
  add_step(2);
  add("plan", 1);
  const StepAccount account = account_steps(spans_, "plan", 10);
  ASSERT_EQ(account.step_us, (std::vector<double>{72, 36}));  // newest first
  ASSERT_EQ(account.operations.size(), 4U);
  EXPECT_EQ(account.operations[1].name, "linear");
  EXPECT_EQ(account.operations[1].calls_per_step, 2);
  EXPECT_EQ(account.operations[1].us_per_step, (std::vector<double>{60, 30}));
  for (size_t step = 0; step < 2; ++step) {
    double sum = 0;
    for (const OperationTime& operation : account.operations) sum += operation.us_per_step[step];
    EXPECT_DOUBLE_EQ(sum, account.step_us[step]);
  }
}

TEST_F(StepAccountTest, LeavesOutStepsOfOtherWork) {
  add_step(1);
  add("plan", 1);
  add("stop", 1000);
  add_step(3);
  add("plan", 1);
  const StepAccount account = account_steps(spans_, "plan", 10);
  EXPECT_EQ(account.step_us, (std::vector<double>{108, 36}));
}

TEST_F(StepAccountTest, LooksAtSoManySteps) {
  for (int i = 1; i <= 9; ++i) add_step(i);
  EXPECT_EQ(account_steps(spans_, "plan", 3).step_us, (std::vector<double>{288, 252, 216}));
}

TEST_F(StepAccountTest, HasNothingToSayWithoutACompleteStep) {
  EXPECT_TRUE(account_steps(spans_, "plan", 3).step_us.empty());
  add_step(1);
  EXPECT_TRUE(account_steps(spans_, "plan", 3).step_us.empty());
}

}  // namespace
}  // namespace phalanx::bench
