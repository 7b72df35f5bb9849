// chunk_size.cpp: a table of chunks.
#include "runtime/scheduler/chunk_size.h"

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

TEST(ChunkSize, FollowsTheTable) {
  constexpr int64_t kHalf = ChunkSize::kBalancePrefix;  // the prefix at which chunks are halved
  const ChunkSize chunk{.max_chunk_tokens = 512, .block_tokens = 32};
  struct Case {
    int64_t prefix, remaining, budget;
    bool has_company;
    int64_t expected;
  };
  const Case cases[] = {
      {0, 5000, 2048, false, 2048},      // alone: whatever the budget has
      {0, 100, 2048, false, 100},        //
      {kHalf, 5000, 2048, false, 2048},  //
      {0, 5000, 2048, true, 512},        // the cap
      {0, 100, 2048, true, 100},         // the rest of the prompt
      {0, 5000, 70, true, 70},           // the rest of the budget
      {kHalf, 5000, 2048, true, 256},    // shrinks with the prefix
      {3 * kHalf, 5000, 2048, true, 128},
      {10, 5000, 2048, true, 502},        // ends at a block boundary
      {64 * kHalf, 5000, 2048, true, 7},  // smaller than a block, not aligned
  };
  for (const Case& c : cases)
    EXPECT_EQ(chunk(c.prefix, c.remaining, c.budget, c.has_company), c.expected)
        << "prefix " << c.prefix << " remaining " << c.remaining << " budget " << c.budget;
}

TEST(ChunkSize, AlwaysMakesProgressWithinItsBounds) {
  for (int64_t cap : {1, 7, 512})
    for (int64_t block : {1, 16, 64})
      for (int64_t prefix = 0; prefix < 200'000; prefix += 997)
        for (int64_t remaining : {1, 10, 4000})
          for (int64_t budget : {1, 33, 2048}) {
            const int64_t rows = ChunkSize{cap, block}(prefix, remaining, budget, true);
            ASSERT_GE(rows, 1);
            ASSERT_LE(rows, std::min({cap, remaining, budget}));
          }
  EXPECT_THROW((ChunkSize{512, 32}(0, 0, 1, true)), InternalError);
  EXPECT_THROW((ChunkSize{512, 32}(0, 1, 0, true)), InternalError);
}

}  // namespace
}  // namespace phalanx
