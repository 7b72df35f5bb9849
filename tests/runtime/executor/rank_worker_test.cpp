// Tests runtime/executor/rank_worker's own affairs with a made-up pipeline: what it says of itself
// while it waits. What it computes: exactness_test.cpp, continuous_batching_test.cpp.
#include "runtime/executor/rank_worker.h"

#include <cstring>
#include <deque>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "runtime/scheduler/step_plan.h"

namespace phalanx {
namespace {

/// Hands out prepared plans; between them it says nothing for a while, as when results are awaited.
class ScriptedPlans : public parallel::StepSubscriber {
 public:
  std::deque<std::optional<StepPlan>> script;
  std::function<void()> on_silence = [] {};

  std::optional<std::vector<std::byte>> next(std::chrono::milliseconds) override {
    PHALANX_CHECK(!script.empty(), "the worker asks for more plans than there are");
    std::optional<StepPlan> plan = std::move(script.front());
    script.pop_front();
    if (!plan) {
      on_silence();
      return std::nullopt;
    }
    plan->step = num_plans_++;
    plan->previous_hash = previous_hash_;
    const std::string text = encode_step_plan(*plan);
    const auto bytes = std::as_bytes(std::span(text));
    previous_hash_ = step_plan_hash(bytes);
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  }

 private:
  uint64_t num_plans_ = 0;
  uint64_t previous_hash_ = 0;
};

/// The pipeline group as rank 0 of two stages sees it: `arrived` are empty results by step.
class ScriptedPipeline : public parallel::Communicator {
 public:
  std::deque<uint64_t> arrived;

  void all_reduce_sum(std::span<float>) override { refuse(); }
  std::vector<std::byte*> share_memory(size_t) override { return {}; }
  void meet() override { refuse(); }
  size_t bytes_worth_a_meeting() const override { return 0; }
  void gather(std::span<const std::byte>, std::span<const size_t>, std::span<std::byte>,
              int) override {
    refuse();
  }
  void broadcast(std::span<std::byte>, int) override { refuse(); }
  void send(std::span<const std::byte>, int) override { refuse(); }
  void recv(std::span<std::byte> data, int) override {
    const uint64_t header[2] = {arrived.front(), 0};
    ASSERT_EQ(data.size(), sizeof(header));
    std::memcpy(data.data(), header, sizeof(header));
    arrived.pop_front();
  }
  void post(std::span<const std::byte>, int) override { refuse(); }
  bool push_posted() override { return true; }
  void finish_posted() override {}
  bool can_recv(int) override { return !arrived.empty(); }
  std::string transport() const override { return "script"; }

 private:
  [[noreturn]] static void refuse() { throw InternalError("not in this script"); }
};

StepPlan empty_plan(bool stop = false) {
  StepPlan plan;
  plan.stop = stop;
  return plan;
}

TEST(RankWorker, LookingInVainForResultsIsNoProgress) {
  parallel::Progress progress;
  ScriptedPlans plans;
  ScriptedPipeline pipeline;
  std::vector<uint64_t> delivered;
  RankWorkerParts parts;
  parts.topology = {2, 0, 1, 2};
  parts.groups = {nullptr, &pipeline};
  parts.plans = &plans;
  parts.progress = &progress;

  constexpr size_t kLooks = 20;
  std::vector<uint64_t> counts;
  plans.on_silence = [&] {
    EXPECT_EQ(progress.state(), parallel::Progress::State::kWaiting);
    EXPECT_STREQ(progress.operation(), "wait for results");
    counts.push_back(progress.count());
    if (counts.size() == kLooks) pipeline.arrived = {0, 1};
  };
  plans.script = {empty_plan(), empty_plan()};
  plans.script.insert(plans.script.end(), kLooks, std::nullopt);
  plans.script.emplace_back(empty_plan(true));
  parts.deliver = [&](const StepResult& result) {
    delivered.push_back(result.step);
    if (result.step == 1) pipeline.arrived = {2};  // of the stop plan
  };
  RankWorker(parts, {16, 4, 64}, 8).run();
  EXPECT_EQ(delivered, (std::vector<uint64_t>{0, 1, 2}));
  ASSERT_EQ(counts.size(), kLooks);
  EXPECT_EQ(counts.front(), counts.back());
}

}  // namespace
}  // namespace phalanx
