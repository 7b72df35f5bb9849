// The leader with real scheduler and channel, and an executor that answers each plan at once.
#include "runtime/server/leader.h"

#include <atomic>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class RecordingSink : public UpdateSink {
 public:
  void on_update(const RequestUpdate& update) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(finished_) << "an update after the last one";
    if (update.has_token) tokens_.push_back(update.token.token_id);
    if (update.finished) {
      finished_ = true;
      last_ = update;
    }
    changed_.notify_all();
  }
  bool wait_finished(milliseconds timeout = milliseconds(5000)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return finished_; });
  }
  bool wait_tokens(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, milliseconds(5000), [&] { return tokens_.size() >= count; });
  }
  std::vector<int32_t> tokens() {
    const std::lock_guard lock(mutex_);
    return tokens_;
  }
  RequestUpdate last() {
    const std::lock_guard lock(mutex_);
    return last_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int32_t> tokens_;
  bool finished_ = false;
  RequestUpdate last_;
};

/// Leader on a thread, and an "executor" whose sampled token is the position it stands at.
class LeaderTest : public ::testing::Test {
 protected:
  void start(SchedulerConfig config) {
    channel_ = parallel::make_local_step_channel({}, &abort_);
    leader_ = std::make_unique<Leader>(config, ServiceInfo{}, *channel_.publisher);
    executor_ = std::thread([this] { execute(); });
    leader_thread_ = std::thread([this] { leader_->run(); });
    leader_->set_ready();
  }

  void TearDown() override {
    paused_ = false;
    if (leader_) leader_->drain(milliseconds(0));
    if (leader_thread_.joinable()) leader_thread_.join();
    if (executor_.joinable()) executor_.join();
  }

  static SchedulerConfig small_config() {
    SchedulerConfig config;
    config.num_blocks = 32;
    config.max_sequences = 8;
    config.max_waiting = 4;
    config.max_context_tokens = 256;
    config.vocab_size = 1000;
    return config;
  }

  static Request request_of(size_t prompt_tokens, int64_t max_tokens) {
    Request request;
    request.prompt_token_ids.assign(prompt_tokens, 1);
    request.max_tokens = max_tokens;
    return request;
  }

  void execute() {
    while (true) {
      const auto message = channel_.subscriber->next(milliseconds(100));
      if (!message) continue;
      const auto plan = decode_step_plan(*message);
      ASSERT_TRUE(plan.ok());
      ++num_steps_;
      while (paused_) std::this_thread::sleep_for(milliseconds(1));
      if (plan->stop) return;
      StepResult result;
      result.step = plan->step;
      for (const SequencePlan& sequence : plan->sequences) {
        if (!sequence.samples) continue;
        SampledToken token;
        token.slot = sequence.slot;
        token.token_id = static_cast<int32_t>(sequence.first_position + sequence.num_rows());
        result.tokens.push_back(token);
      }
      leader_->deliver(std::move(result));
    }
  }

  parallel::AbortFlag abort_{false};
  parallel::StepChannelEnds channel_;
  std::unique_ptr<Leader> leader_;
  std::thread leader_thread_;
  std::thread executor_;
  std::atomic<bool> paused_{false};
  std::atomic<int> num_steps_{0};
};

TEST_F(LeaderTest, AnswersInOrder) {
  start(small_config());
  const auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(leader_->submit(request_of(3, 5), sink).ok());
  ASSERT_TRUE(sink->wait_finished());
  EXPECT_EQ(sink->tokens(), (std::vector<int32_t>{3, 4, 5, 6, 7}));
  EXPECT_EQ(sink->last().reason, FinishReason::kLength);
}

TEST_F(LeaderTest, StopTokenEnds) {
  start(small_config());
  const auto sink = std::make_shared<RecordingSink>();
  Request request = request_of(3, 50);
  request.stop_token_ids = {6};
  ASSERT_TRUE(leader_->submit(request, sink).ok());
  ASSERT_TRUE(sink->wait_finished());
  EXPECT_EQ(sink->last().reason, FinishReason::kStop);
  EXPECT_EQ(sink->tokens(), (std::vector<int32_t>{3, 4, 5}));
}

TEST_F(LeaderTest, RefusesAtOnceWhatCannotBe) {
  start(small_config());
  const auto sink = std::make_shared<RecordingSink>();
  const auto empty = leader_->submit(request_of(0, 5), sink);
  ASSERT_FALSE(empty.ok());
  EXPECT_EQ(empty.error().code, ErrorCode::kInvalidArgument);
  const auto too_long = leader_->submit(request_of(257, 5), sink);
  ASSERT_FALSE(too_long.ok());
  EXPECT_EQ(too_long.error().code, ErrorCode::kInvalidArgument);
}

TEST_F(LeaderTest, FullQueueIsResourceExhausted) {
  SchedulerConfig config = small_config();
  config.max_sequences = 1;
  start(config);
  paused_ = true;
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  int refused = 0;
  for (int i = 0; i < 20; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    const auto id = leader_->submit(request_of(3, 5), sinks.back());
    if (id.ok()) continue;
    EXPECT_EQ(id.error().code, ErrorCode::kResourceExhausted);
    sinks.pop_back();
    ++refused;
  }
  EXPECT_GE(refused, 10);
  EXPECT_GE(sinks.size(), 4U);
  paused_ = false;
  for (const auto& sink : sinks) {
    ASSERT_TRUE(sink->wait_finished());
    EXPECT_EQ(sink->tokens().size(), 5U);
  }
}

TEST_F(LeaderTest, CancelStopsTheWork) {
  start(small_config());
  const auto sink = std::make_shared<RecordingSink>();
  const auto id = leader_->submit(request_of(3, 200), sink);
  ASSERT_TRUE(id.ok());
  ASSERT_TRUE(sink->wait_tokens(1));
  leader_->cancel(*id);
  std::this_thread::sleep_for(milliseconds(50));
  const int steps = num_steps_;
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(num_steps_, steps) << "steps go on for a cancelled request";
  leader_->cancel(*id);  // twice is harmless
}

TEST_F(LeaderTest, DrainFinishesRunningAndRefusesNew) {
  start(small_config());
  paused_ = true;
  const auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(leader_->submit(request_of(3, 20), sink).ok());
  leader_->drain(milliseconds(5000));
  EXPECT_EQ(leader_->state(), ServiceState::kDraining);
  const auto refused = leader_->submit(request_of(3, 5), std::make_shared<RecordingSink>());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
  paused_ = false;
  leader_thread_.join();
  EXPECT_TRUE(sink->wait_finished(milliseconds(0)));
  EXPECT_EQ(sink->tokens().size(), 20U);
}

/// At the end of its request: submits another and drains, as a second client and a signal would
/// between two looks of the leader at its inbox.
class LateSubmitSink : public RecordingSink {
 public:
  LateSubmitSink(Leader& leader, Request request, std::shared_ptr<UpdateSink> next)
      : leader_(leader), request_(std::move(request)), next_(std::move(next)) {}
  void on_update(const RequestUpdate& update) override {
    if (update.finished) {
      is_taken_ = leader_.submit(request_, next_).ok();
      leader_.drain(milliseconds(5000));
    }
    RecordingSink::on_update(update);
  }
  bool is_taken() const { return is_taken_; }

 private:
  Leader& leader_;
  Request request_;
  std::shared_ptr<UpdateSink> next_;
  std::atomic<bool> is_taken_{false};
};

TEST_F(LeaderTest, RequestTakenRightBeforeTheDrainIsAnswered) {
  start(small_config());
  const auto late = std::make_shared<RecordingSink>();
  const auto first = std::make_shared<LateSubmitSink>(*leader_, request_of(3, 4), late);
  ASSERT_TRUE(leader_->submit(request_of(3, 2), first).ok());
  leader_thread_.join();
  EXPECT_TRUE(first->is_taken());
  EXPECT_TRUE(late->wait_finished(milliseconds(0)));
  EXPECT_EQ(late->tokens().size(), 4U);
}

TEST_F(LeaderTest, DrainDeadlineEndsWhatIsLeft) {
  start(small_config());
  paused_ = true;
  const auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(leader_->submit(request_of(3, 20), sink).ok());
  leader_->drain(milliseconds(50));
  leader_thread_.join();
  ASSERT_TRUE(sink->wait_finished(milliseconds(0)));
  EXPECT_EQ(sink->last().reason, FinishReason::kError);
  EXPECT_THAT(sink->last().error, HasSubstr("shutting down"));
}

TEST_F(LeaderTest, FailureEndsOpenRequestsWithItsReason) {
  start(small_config());
  paused_ = true;
  const auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(leader_->submit(request_of(3, 20), sink).ok());
  leader_->fail("rank 3 died");
  ASSERT_TRUE(sink->wait_finished());
  EXPECT_EQ(sink->last().reason, FinishReason::kError);
  EXPECT_THAT(sink->last().error, HasSubstr("rank 3 died"));
  const auto refused = leader_->submit(request_of(3, 5), std::make_shared<RecordingSink>());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
  leader_thread_.join();
  const std::string stop = encode_step_plan([] {
    StepPlan plan;
    plan.stop = true;
    return plan;
  }());
  channel_.publisher->publish(std::as_bytes(std::span(stop)));  // for the executor thread
  paused_ = false;
  executor_.join();  // it still delivers to the leader
  leader_.reset();
}

}  // namespace
}  // namespace phalanx
