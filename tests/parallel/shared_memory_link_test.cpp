// Tests parallel/shared_memory_link between threads: order, sizes, deadlines, abort.
#include "parallel/shared_memory_link.h"

#include <atomic>
#include <memory>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

/// The region and both ends of one pair.
class Pair {
 public:
  explicit Pair(size_t ring_bytes, const WaitPolicy& policy = {})
      : region_(static_cast<std::byte*>(
            std::aligned_alloc(kLineBytes, SharedMemoryLink::bytes_needed(ring_bytes)))) {
    std::fill_n(region_.get(), SharedMemoryLink::bytes_needed(ring_bytes), std::byte{0});
    for (int end = 0; end < 2; ++end) {
      contexts_[end].policy = policy;
      contexts_[end].operation = end == 0 ? "send" : "recv";
      contexts_[end].peers = {"rank 4 on alpha", "rank 5 on beta"};
      links_[end] = std::make_unique<SharedMemoryLink>(region_.get(), ring_bytes, end,
                                                       contexts_[end], 1 - end);
    }
  }
  SharedMemoryLink& end(int index) { return *links_[index]; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> region_;
  WaitContext contexts_[2];
  std::unique_ptr<SharedMemoryLink> links_[2];
};

std::vector<std::byte> pattern(uint64_t seed, size_t size) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

TEST(ByteRing, AgreesWithAQueueModel) {
  RingPositions positions{};
  std::vector<std::byte> memory(96);
  ByteRing ring(&positions, memory.data(), memory.size());
  std::vector<std::byte> model;
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    if (random() % 2 == 0) {
      const auto data = pattern(random(), random() % 130);
      const size_t count = ring.write_some(data);
      const size_t room = memory.size() - model.size();
      ASSERT_EQ(count, std::min({data.size(), room, memory.size() / 2}));
      model.insert(model.end(), data.begin(), data.begin() + static_cast<ptrdiff_t>(count));
    } else {
      std::vector<std::byte> data(random() % 130);
      const size_t count = ring.read_some(data);
      ASSERT_EQ(count, std::min(data.size(), model.size()));
      ASSERT_TRUE(
          std::equal(data.begin(), data.begin() + static_cast<ptrdiff_t>(count), model.begin()));
      model.erase(model.begin(), model.begin() + static_cast<ptrdiff_t>(count));
    }
    ASSERT_EQ(ring.has_data(), !model.empty());
    ASSERT_EQ(ring.has_room(), model.size() < memory.size());
  }
}

TEST(SharedMemoryLink, KeepsOrderAndContentBothWays) {
  for (const bool spin : {true, false}) {
    Pair pair(256, {10s, spin, nullptr});
    const auto talk = [&](int end) {
      for (uint64_t i = 0; i < 400; ++i) {
        const size_t size = i % 7 == 0 ? 0 : (i * 37) % 1500;
        const auto own = pattern(2 * i + static_cast<uint64_t>(end), size);
        const auto expected = pattern(2 * i + static_cast<uint64_t>(1 - end), size);
        std::vector<std::byte> received(size);
        if (i % 3 == 0) {
          pair.end(end).exchange(own, received);
        } else if (static_cast<int>(i % 2) == end) {
          pair.end(end).send(own);
          pair.end(end).recv(received);
        } else {
          pair.end(end).recv(received);
          pair.end(end).send(own);
        }
        ASSERT_EQ(received, expected) << "message " << i;
      }
    };
    std::thread other(talk, 1);
    talk(0);
    other.join();
  }
}

TEST(SharedMemoryLink, CanRecvFollowsTheMessages) {
  Pair pair(256);
  EXPECT_FALSE(pair.end(1).can_recv());
  pair.end(0).send(pattern(1, 5));
  EXPECT_TRUE(pair.end(1).can_recv());
  std::vector<std::byte> received(5);
  pair.end(1).recv(received);
  EXPECT_FALSE(pair.end(1).can_recv());
}

TEST(SharedMemoryLink, AWrongSizeIsAnErrorAndNotAShiftedStream) {
  Pair pair(256);
  pair.end(0).send(pattern(1, 8));
  std::vector<std::byte> received(9);
  EXPECT_THROW(pair.end(1).recv(received), InternalError);
}

TEST(SharedMemoryLink, TheDeadlineNamesOperationAndPeer) {
  Pair pair(256, {50ms, true, nullptr});
  std::vector<std::byte> data(1000);
  try {
    pair.end(1).recv(data);
    FAIL() << "recv returned";
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("recv"), HasSubstr("rank 4 on alpha"), HasSubstr("deadline")));
  }
  try {
    pair.end(0).send(data);  // more than the ring holds, and nobody reads
    FAIL() << "send returned";
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("send"), HasSubstr("rank 5 on beta")));
  }
}

TEST(SharedMemoryLink, AnAbortWakesASleeper) {
  AbortFlag abort{false};
  Pair pair(256, {60s, false, &abort});
  std::thread killer([&] {
    std::this_thread::sleep_for(50ms);
    abort = true;
  });
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::byte> data(1);
  EXPECT_THROW(pair.end(0).recv(data), DeviceError);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
  killer.join();
}

}  // namespace
}  // namespace phalanx::parallel
