// Tests parallel/failure_judge and the words of parallel/rank_status with a made-up clock.
#include "parallel/failure_judge.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::parallel {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using namespace std::chrono_literals;
using State = Progress::State;

class FailureJudgeTest : public testing::Test {
 protected:
  FailureJudgeTest() : judge_({"rank 0 on a", "rank 1 on a", "rank 2 on b"}, options_, now_) {}

  static RankStatus status(State state, int64_t step, uint64_t count, bool is_ready = true) {
    return {state, is_ready, step, 5, count, "all_reduce"};
  }
  /// Advances in heartbeats; each rank in `moving` makes progress, each in `silent` says nothing,
  /// the rest repeat themselves.
  std::optional<std::string> live(std::chrono::milliseconds time, const std::set<int>& moving,
                                  const std::set<int>& silent = {}) {
    for (const auto end = now_ + time; now_ < end;) {
      now_ += 250ms;
      for (int rank = 0; rank < 3; ++rank) {
        auto& own = statuses_[static_cast<size_t>(rank)];
        if (moving.contains(rank)) ++own.count;
        if (!silent.contains(rank)) judge_.observe(rank, own, now_);
      }
      if (auto verdict = judge_.judge(now_)) return verdict;
    }
    return std::nullopt;
  }

  JobMonitorOptions options_;
  FailureJudge::Clock::time_point now_{};
  FailureJudge judge_;
  std::vector<RankStatus> statuses_ = std::vector(3, status(State::kBusy, 128, 0));
};

TEST_F(FailureJudgeTest, NothingIsWrongWhileAllMove) {
  EXPECT_EQ(live(60s, {0, 1, 2}), std::nullopt);
}

TEST_F(FailureJudgeTest, ASilentRankIsLostAfterThreeSeconds) {
  EXPECT_EQ(live(10s, {0, 1, 2}), std::nullopt);
  EXPECT_EQ(live(3s, {0, 1}, {2}), std::nullopt);
  EXPECT_EQ(live(250ms, {0, 1}, {2}),
            "rank 2 on b stopped answering (no heartbeat for 3.2 s) at step 128 in all_reduce, "
            "layer 5");
}

TEST_F(FailureJudgeTest, ACutOfOneSecondIsForgotten) {
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(live(1500ms, {0, 1}, {2}), std::nullopt);
    EXPECT_EQ(live(500ms, {0, 1, 2}), std::nullopt);
  }
}

TEST_F(FailureJudgeTest, ALostHostsRanksAreAllNamed) {
  EXPECT_EQ(live(500ms, {0, 1, 2}, {}), std::nullopt);
  const auto verdict = live(10s, {0}, {1, 2});
  ASSERT_TRUE(verdict.has_value());
  EXPECT_THAT(*verdict, StartsWith("rank 1 on a stopped answering"));
  EXPECT_THAT(*verdict, HasSubstr("also silent: rank 2 on b"));
}

TEST_F(FailureJudgeTest, ABusyRankIsBlamedAndNotThoseWhoWaitForIt) {
  statuses_[0] = status(State::kWaiting, 128, 7);
  statuses_[1] = status(State::kWaiting, 127, 7);
  const auto verdict = live(10s, {});
  ASSERT_TRUE(verdict.has_value());
  EXPECT_THAT(*verdict, StartsWith("rank 2 on b hangs (busy without progress for 3."));
  EXPECT_THAT(*verdict, HasSubstr("at step 128 in all_reduce, layer 5"));
}

TEST_F(FailureJudgeTest, WaitingForARankThatStillWorksIsNoFailure) {
  statuses_[0] = status(State::kWaiting, 128, 7);
  statuses_[1] = status(State::kWaiting, 128, 7);
  EXPECT_EQ(live(60s, {2}), std::nullopt);
}

TEST_F(FailureJudgeTest, IfAllWaitTheLowestStepIsBlamed) {
  statuses_[0] = status(State::kWaiting, 130, 7);
  statuses_[1] = status(State::kWaiting, 129, 7);
  statuses_[2] = status(State::kIdle, 2, 7);
  const auto verdict = live(10s, {});
  ASSERT_TRUE(verdict.has_value());
  EXPECT_THAT(*verdict, StartsWith("rank 1 on a hangs (waiting without progress for 3."));
}

TEST_F(FailureJudgeTest, IdleRanksOweNothing) {
  statuses_.assign(3, status(State::kIdle, 5, 1));
  EXPECT_EQ(live(600s, {}), std::nullopt);
  // ... and the time before does not count against them when work comes.
  statuses_[1].state = State::kBusy;
  EXPECT_EQ(live(3000ms, {}), std::nullopt);
  EXPECT_THAT(live(1s, {}).value_or(""), StartsWith("rank 1 on a hangs"));
}

TEST_F(FailureJudgeTest, LoadingMayTakeLonger) {
  statuses_.assign(3, status(State::kBusy, -1, 1, false));
  EXPECT_EQ(live(299s, {}), std::nullopt);
  const auto verdict = live(10s, {});
  ASSERT_TRUE(verdict.has_value());
  EXPECT_THAT(*verdict, Not(HasSubstr("at step")));
}

TEST_F(FailureJudgeTest, ALongLoadDoesNotCountAgainstTheDeadlineOfAReadyRank) {
  for (const State state : {State::kWaiting, State::kBusy}) {
    statuses_.assign(3, status(state, -1, 1, false));
    EXPECT_EQ(live(100s, {}), std::nullopt);
    for (RankStatus& own : statuses_) own.is_ready = true;
    EXPECT_EQ(live(3s, {}), std::nullopt);
    EXPECT_THAT(live(1s, {}).value_or(""), HasSubstr("hangs"));
    for (RankStatus& own : statuses_) own.is_ready = false;
  }
}

TEST_F(FailureJudgeTest, AReleasedRankMayBeSilent) {
  judge_.release(2);
  EXPECT_EQ(live(60s, {0, 1}, {2}), std::nullopt);
}

TEST_F(FailureJudgeTest, TheWatchersOwnPauseIsForgiven) {
  EXPECT_EQ(live(1s, {0, 1, 2}), std::nullopt);
  now_ += 20s;
  judge_.forgive(20s);
  EXPECT_EQ(judge_.judge(now_), std::nullopt);
  EXPECT_EQ(live(2s, {0, 1}, {2}), std::nullopt);
  EXPECT_TRUE(live(2s, {0, 1}, {2}).has_value());
}

TEST(RankStatus, SurvivesTheWire) {
  const RankStatus status{
      Progress::State::kWaiting, true, 1LL << 40, 31, 12345678901, "all_reduce"};
  const auto decoded = decode_status(encode_status(status));
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->state, status.state);
  EXPECT_EQ(decoded->is_ready, status.is_ready);
  EXPECT_EQ(decoded->step, status.step);
  EXPECT_EQ(decoded->layer, status.layer);
  EXPECT_EQ(decoded->count, status.count);
  EXPECT_EQ(decoded->operation, status.operation);
}

TEST(RankStatus, RefusesWhatIsNone) {
  std::string bytes = encode_status({});
  EXPECT_FALSE(decode_status(bytes.substr(0, 20)).has_value());
  EXPECT_FALSE(decode_status(bytes + std::string(100, 'x')).has_value());
  bytes[24] = 9;  // the state
  EXPECT_FALSE(decode_status(bytes).has_value());
  RankStatus long_named;
  long_named.operation = std::string(1000, 'x');
  EXPECT_EQ(decode_status(encode_status(long_named))->operation.size(), 64U);
}

TEST(RankStatus, PlaceTextLeavesOutWhatIsUnknown) {
  RankStatus status;
  EXPECT_EQ(place_text(status), " in start");
  status.step = 3;
  EXPECT_EQ(place_text(status), " at step 3 in start");
  status.layer = 0;
  EXPECT_EQ(place_text(status), " at step 3 in start, layer 0");
}

}  // namespace
}  // namespace phalanx::parallel
