// Tests parallel/step_channel under mpirun: order, back-pressure, errors, by ring and by socket.
#include "parallel/step_channel.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "tests/support/mpi_test_main.h"

namespace phalanx::parallel {
namespace {

using namespace std::chrono_literals;

std::vector<std::byte> numbered(uint64_t number, size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(number * 31 + i);
  return bytes;
}

size_t size_of(uint64_t number) { return number % 11 == 0 ? (number * 977) % 30'000 : number % 90; }

TEST(StepChannel, EveryRankGetsEveryStepInOrder) {
  for (const bool spin : {true, false}) {
    const StepChannelOptions options{64 << 10, spin, 20s};
    StepChannelEnds ends = make_step_channel(test_session(), options, nullptr);
    ASSERT_EQ(ends.publisher != nullptr, test_session().rank() == 0);
    constexpr uint64_t kSteps = 2000;
    std::thread leader;
    if (ends.publisher)
      leader = std::thread([&] {
        for (uint64_t step = 0; step < kSteps; ++step)
          ends.publisher->publish(numbered(step, size_of(step)));
      });
    for (uint64_t step = 0; step < kSteps; ++step) {
      // A slow reader holds the leader back; nothing is lost.
      if (step == 100 && test_session().rank() == test_session().world_size() - 1)
        std::this_thread::sleep_for(50ms);
      const auto message = ends.subscriber->next(20s);
      ASSERT_TRUE(message.has_value());
      ASSERT_EQ(*message, numbered(step, size_of(step))) << "step " << step;
    }
    EXPECT_FALSE(ends.subscriber->next(10ms).has_value());
    if (leader.joinable()) leader.join();
    test_session().all_gather("done");
  }
}

TEST(StepChannel, TheLeadersEndIsSeenByAll) {
  StepChannelEnds ends = make_step_channel(test_session(), {4096, false, 5s}, nullptr);
  if (ends.publisher) ends.publisher->publish(numbered(1, 10));
  ends.publisher.reset();
  EXPECT_EQ(ends.subscriber->next(5s), numbered(1, 10));
  EXPECT_THROW(ends.subscriber->next(5s), DeviceError);
  test_session().all_gather("done");
}

TEST(StepChannel, AReaderThatNeverReadsIsNamedAfterTheDeadline) {
  StepChannelEnds ends = make_step_channel(test_session(), {4096, false, 200ms}, nullptr);
  if (ends.publisher) {
    const auto start = std::chrono::steady_clock::now();
    try {
      while (std::chrono::steady_clock::now() - start < 20s) {
        ends.publisher->publish(numbered(1, 1500));
        if (test_session().world_size() > 1) ends.subscriber->next(0ms);  // one that does read
      }
      ADD_FAILURE() << "publish never failed";
    } catch (const DeviceError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("publish: waiting for rank "));
      EXPECT_THAT(error.what(), testing::HasSubstr("deadline"));
    }
  }
  test_session().all_gather("done");
}

TEST(StepChannel, AnAbortEndsTheWaitForAStep) {
  AbortFlag abort{false};
  StepChannelEnds ends = make_step_channel(test_session(), {4096, true, 60s}, &abort);
  std::thread killer([&] {
    std::this_thread::sleep_for(30ms);
    abort = true;
  });
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(ends.subscriber->next(60s), DeviceError);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 3s);
  killer.join();
  test_session().all_gather("done");
}

TEST(StepChannel, RefusesAMessageOfMoreThanHalf) {
  StepChannelEnds ends = make_step_channel(test_session(), {4096, true, 1s}, nullptr);
  if (ends.publisher) {
    EXPECT_THROW(ends.publisher->publish(numbered(1, 2048)), InternalError);
  }
  test_session().all_gather("done");
}

TEST(StepChannel, WorksWithinOneProcess) {
  StepChannelEnds ends = make_local_step_channel({4096, true, 5s}, nullptr);
  for (uint64_t step = 0; step < 100; ++step) {
    ends.publisher->publish(numbered(step, 100));
    ASSERT_EQ(ends.subscriber->next(5s), numbered(step, 100));
  }
  EXPECT_FALSE(ends.subscriber->next(0ms).has_value());
  ends.publisher.reset();
  EXPECT_THROW(ends.subscriber->next(5s), DeviceError);
}

}  // namespace
}  // namespace phalanx::parallel
