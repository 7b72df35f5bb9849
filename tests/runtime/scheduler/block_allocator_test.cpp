// block_allocator.cpp: the order in which free blocks are used, and reference counts against a
// naive model.
#include "runtime/scheduler/block_allocator.h"

#include <algorithm>
#include <deque>
#include <random>

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

TEST(BlockAllocator, UsesFreshBlocksInOrderAndFreedOnesByValue) {
  BlockAllocator allocator(4);
  EXPECT_EQ(allocator.num_free(), 4);
  for (int32_t i = 0; i < 3; ++i) EXPECT_EQ(allocator.allocate(), BlockId{i});
  EXPECT_TRUE(allocator.release(BlockId{1}, true));   // to the end of the line
  EXPECT_TRUE(allocator.release(BlockId{2}, false));  // to its front
  EXPECT_EQ(allocator.num_free(), 3);
  EXPECT_EQ(allocator.allocate(), BlockId{2});
  EXPECT_EQ(allocator.allocate(), BlockId{3});
  EXPECT_EQ(allocator.allocate(), BlockId{1});
  EXPECT_EQ(allocator.num_free(), 0);
  EXPECT_THROW(allocator.allocate(), InternalError);
}

TEST(BlockAllocator, SharingTakesABlockOutOfTheLine) {
  BlockAllocator allocator(2);
  const BlockId block = allocator.allocate();
  allocator.share(block);
  EXPECT_FALSE(allocator.release(block, true));
  EXPECT_TRUE(allocator.release(block, true));
  EXPECT_EQ(allocator.num_references(block), 0);
  allocator.share(block);
  EXPECT_EQ(allocator.num_free(), 1);
  EXPECT_EQ(allocator.allocate(), BlockId{1});
  EXPECT_THROW(allocator.allocate(), InternalError);
}

TEST(BlockAllocator, MisuseIsAnInternalError) {
  EXPECT_THROW(BlockAllocator(0), InternalError);
  BlockAllocator allocator(1);
  EXPECT_THROW(allocator.release(BlockId{0}, true), InternalError);
  EXPECT_THROW(allocator.share(BlockId{1}), InternalError);
  EXPECT_THROW(allocator.share(BlockId{-1}), InternalError);
}

TEST(BlockAllocator, EqualsANaiveModel) {
  constexpr int32_t kBlocks = 12;
  std::mt19937 random(1);
  BlockAllocator allocator(kBlocks);
  std::deque<int32_t> line;
  std::vector<int> references(kBlocks);
  for (int32_t i = 0; i < kBlocks; ++i) line.push_back(i);
  for (int step = 0; step < 20'000; ++step) {
    const auto block = static_cast<int32_t>(random() % kBlocks);
    int& count = references[static_cast<size_t>(block)];
    switch (random() % 3) {
      case 0:
        if (line.empty()) break;
        ASSERT_EQ(allocator.allocate().value, line.front());
        references[static_cast<size_t>(line.front())] = 1;
        line.pop_front();
        break;
      case 1:
        allocator.share(BlockId{block});
        if (count++ == 0) line.erase(std::find(line.begin(), line.end(), block));
        break;
      case 2: {
        if (count == 0) break;
        const bool reusable = random() % 2 == 0;
        const bool is_free = --count == 0;
        ASSERT_EQ(allocator.release(BlockId{block}, reusable), is_free);
        if (is_free && reusable) line.push_back(block);
        if (is_free && !reusable) line.push_front(block);
        break;
      }
    }
    ASSERT_EQ(allocator.num_free(), static_cast<int64_t>(line.size()));
    ASSERT_EQ(allocator.num_references(BlockId{block}), references[static_cast<size_t>(block)]);
  }
}

}  // namespace
}  // namespace phalanx
