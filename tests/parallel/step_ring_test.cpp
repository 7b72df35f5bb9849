// Tests parallel/step_ring: every reader gets every message in order, the writer waits for the
// slowest, and waits end.
#include "parallel/step_ring.h"

#include <cstdlib>
#include <memory>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};

class Ring {
 public:
  Ring(size_t capacity, int num_readers)
      : region_(static_cast<std::byte*>(std::aligned_alloc(
            kLineBytes, (StepRing::bytes_needed(capacity, num_readers) + kLineBytes - 1) /
                            kLineBytes * kLineBytes))),
        ring((std::fill_n(region_.get(), StepRing::bytes_needed(capacity, num_readers),
                          std::byte{0}),
              region_.get()),
             capacity, num_readers) {}

 private:
  std::unique_ptr<std::byte, Free> region_;

 public:
  StepRing ring;
};

std::vector<std::byte> numbered(uint64_t number, size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(number * 31 + i);
  return bytes;
}

TEST(StepRing, EveryReaderGetsEveryMessageInOrder) {
  constexpr int kReaders = 3;
  constexpr uint64_t kMessages = 3000;
  for (const bool spin : {true, false}) {
    Ring shared(512, kReaders);
    const WaitPolicy policy{20s, spin, nullptr};
    std::vector<std::thread> threads;
    for (int reader = 0; reader < kReaders; ++reader)
      threads.emplace_back([&, reader] {
        for (uint64_t i = 0; i < kMessages; ++i) {
          const auto message = shared.ring.next(reader, policy, 20s);
          ASSERT_TRUE(message.has_value());
          ASSERT_EQ(*message, numbered(i, (i * 13) % 249)) << "message " << i;
        }
      });
    const std::vector<std::string> names(kReaders, "a reader");
    for (uint64_t i = 0; i < kMessages; ++i)
      shared.ring.publish(numbered(i, (i * 13) % 249), policy, names);
    for (std::thread& thread : threads) thread.join();
  }
}

TEST(StepRing, NothingComesWithinTheTimeout) {
  Ring shared(512, 1);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(shared.ring.next(0, {}, 30ms).has_value());
  EXPECT_GE(std::chrono::steady_clock::now() - start, 30ms);
  EXPECT_FALSE(shared.ring.next(0, {}, 0ms).has_value());
}

TEST(StepRing, AFullRingNamesTheSlowReader) {
  Ring shared(64, 2);
  const WaitPolicy policy{50ms, false, nullptr};
  const std::vector<std::string> names = {"rank 0 on here", "rank 1 on here"};
  for (uint64_t i = 0; i < 4; ++i) {
    shared.ring.publish(numbered(i, 8), policy, names);
    shared.ring.next(0, policy, 1s);
  }
  try {
    shared.ring.publish(numbered(4, 8), policy, names);
    FAIL() << "there was no room";
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("rank 1 on here"));
  }
  EXPECT_EQ(shared.ring.next(1, policy, 1s), numbered(0, 8));
  shared.ring.publish(numbered(4, 8), policy, names);
}

TEST(StepRing, RefusesAMessageOfMoreThanHalf) {
  Ring shared(64, 1);
  shared.ring.publish(numbered(0, shared.ring.max_message_bytes()), {}, {"a reader"});
  EXPECT_THROW(
      shared.ring.publish(numbered(0, shared.ring.max_message_bytes() + 1), {}, {"a reader"}),
      InternalError);
}

TEST(StepRing, AClosedRingIsReadToItsEnd) {
  Ring shared(512, 1);
  shared.ring.publish(numbered(1, 9), {}, {"a reader"});
  shared.ring.close();
  EXPECT_EQ(shared.ring.next(0, {}, 1s), numbered(1, 9));
  EXPECT_THROW(shared.ring.next(0, {}, 1s), DeviceError);
}

TEST(StepRing, AnAbortWakesReaderAndWriter) {
  AbortFlag abort{false};
  Ring shared(64, 1);
  const WaitPolicy policy{60s, false, &abort};
  std::thread reader([&] { EXPECT_THROW(shared.ring.next(0, policy, 60s), DeviceError); });
  std::this_thread::sleep_for(30ms);
  abort = true;
  reader.join();
  for (uint64_t i = 0; i < 4; ++i) shared.ring.publish(numbered(i, 8), policy, {"a reader"});
  EXPECT_THROW(shared.ring.publish(numbered(4, 8), policy, {"a reader"}), DeviceError);
}

}  // namespace
}  // namespace phalanx::parallel
