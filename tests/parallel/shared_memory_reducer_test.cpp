// Tests parallel/shared_memory_reducer between threads: bits, reuse of slots, missing ranks.
#include "parallel/shared_memory_reducer.h"

#include <cstdlib>
#include <memory>
#include <numeric>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "tests/parallel/tree_model.h"

namespace phalanx::parallel {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

constexpr size_t kSlotBytes = 128 << 10;

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Region = std::unique_ptr<std::byte, Free>;

Region make_region(size_t num_bytes) {
  Region region(static_cast<std::byte*>(std::aligned_alloc(kLineBytes, num_bytes)));
  std::fill_n(region.get(), num_bytes, std::byte{0});
  return region;
}

WaitContext make_context(int num_ranks, const WaitPolicy& policy) {
  WaitContext context;
  context.policy = policy;
  context.operation = "all_reduce";
  for (int rank = 0; rank < num_ranks; ++rank)
    context.peers.push_back("rank " + std::to_string(rank) + " on here");
  return context;
}

std::vector<int> all_members(int num_ranks) {
  std::vector<int> members(static_cast<size_t>(num_ranks));
  std::iota(members.begin(), members.end(), 0);
  return members;
}

TEST(SharedMemoryReducer, EveryRankGetsTheBitsOfTheTree) {
  for (int num_ranks : {2, 4, 8})
    for (const bool spin : {true, false}) {
      if (spin && num_ranks > static_cast<int>(std::thread::hardware_concurrency())) continue;
      const Region region = make_region(SharedMemoryReducer::bytes_needed(num_ranks, kSlotBytes));
      const auto work = [&](int rank) {
        const WaitContext context = make_context(num_ranks, {20s, spin, nullptr});
        SharedMemoryReducer reducer(region.get(), kSlotBytes, all_members(num_ranks), rank,
                                    context);
        for (uint64_t call = 0; call < 150; ++call) {
          // Small and large calls mixed: the two algorithms share slots.
          const size_t count = call % 3 == 0 ? 1 + call % 40 : (call * 677) % 32769;
          auto data = scattered_values(call, rank, count);
          if (call % 5 == 0) {
            // The other blocks' sums, here all ones, are added to each part once.
            reducer.all_reduce(data, [](std::span<float> part) {
              for (float& value : part) value += 1.0F;
            });
            auto expected = tree_values(call, num_ranks, count);
            for (float& value : expected) value += 1.0F;
            ASSERT_EQ(data, expected) << "call " << call;
          } else {
            reducer.all_reduce(data);
            ASSERT_EQ(data, tree_values(call, num_ranks, count)) << "call " << call;
          }
        }
      };
      std::vector<std::thread> threads;
      for (int rank = 1; rank < num_ranks; ++rank) threads.emplace_back(work, rank);
      work(0);
      for (std::thread& thread : threads) thread.join();
    }
}

TEST(ArrivalGate, NobodyLeavesBeforeAllHaveCome) {
  constexpr int kRanks = 5;
  const Region region = make_region(ArrivalGate::bytes_needed(kRanks));
  std::atomic<int> arrived{0};
  const auto work = [&](int rank) {
    const WaitContext context = make_context(kRanks, {20s, false, nullptr});
    ArrivalGate gate(region.get(), all_members(kRanks), rank, context);
    for (int round = 1; round <= 300; ++round) {
      arrived.fetch_add(1);
      gate.meet();
      ASSERT_GE(arrived.load(), round * kRanks);
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 1; rank < kRanks; ++rank) threads.emplace_back(work, rank);
  work(0);
  for (std::thread& thread : threads) thread.join();
}

TEST(ArrivalGate, TheDeadlineNamesTheMissingRank) {
  const Region region = make_region(ArrivalGate::bytes_needed(4));
  const WaitContext context = make_context(4, {50ms, false, nullptr});
  const auto come = [&](int rank) {
    ArrivalGate gate(region.get(), all_members(4), rank, context);
    try {
      gate.meet();
      ADD_FAILURE() << "the gate opened without rank 2";
    } catch (const DeviceError& error) {
      EXPECT_THAT(error.what(), HasSubstr("all_reduce: waiting for rank 2 on here"));
    }
  };
  std::thread one(come, 1);
  std::thread three(come, 3);
  come(0);
  one.join();
  three.join();
}

}  // namespace
}  // namespace phalanx::parallel
