// prefill_room.cpp: a table of chunks, and how a step's chunks share their room.
#include "runtime/scheduler/prefill_room.h"

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

constexpr int64_t kHalf = PrefillRoom::kBalancePrefix;  // the prefix at which rows cost twice

TEST(PrefillRoom, FollowsTheTable) {
  struct Case {
    int64_t prefix, remaining, budget;
    bool has_company, others_wait;
    int64_t expected;
  };
  const Case cases[] = {
      {0, 5000, 2048, false, true, 2048},       // no company: whatever the budget has
      {0, 100, 2048, false, true, 100},         //
      {kHalf, 5000, 2048, false, false, 2048},  //
      {0, 5000, 2048, true, false, 512},        // the cap
      {0, 5000, 2048, true, true, 256},         // half is left to others
      {0, 100, 2048, true, true, 100},          // the rest of the prompt
      {0, 400, 2048, true, true, 400},          // even if it is most of the room
      {0, 5000, 70, true, false, 70},           // the rest of the budget
      {kHalf, 5000, 2048, true, false, 256},    // shrinks with the prefix
      {3 * kHalf, 5000, 2048, true, false, 128},
      {10, 5000, 2048, true, false, 502},        // ends at a block boundary
      {64 * kHalf, 5000, 2048, true, false, 7},  // smaller than a block, not aligned
  };
  for (const Case& c : cases) {
    PrefillRoom room(512, 32, c.has_company);
    EXPECT_EQ(room.take(c.prefix, c.remaining, c.budget, c.others_wait), c.expected)
        << "prefix " << c.prefix << " remaining " << c.remaining << " budget " << c.budget;
  }
}

TEST(PrefillRoom, ChunksOfAStepShareIt) {
  PrefillRoom room(256, 32, true);
  EXPECT_EQ(room.take(0, 5000, 2048, true), 128);
  EXPECT_EQ(room.take(0, 50, 2048, true), 50);
  ASSERT_TRUE(room.has_room());
  EXPECT_EQ(room.take(0, 5000, 2048, false), 64) << "78 are left, two blocks of them";
  EXPECT_FALSE(room.has_room()) << "less than a block";
  EXPECT_THROW(room.take(0, 5, 2048, false), InternalError);
}

TEST(PrefillRoom, TheFirstChunkIsAlwaysWorthStarting) {
  PrefillRoom room(8, 32, true);
  ASSERT_TRUE(room.has_room());
  EXPECT_EQ(room.take(0, 100, 100, false), 8);
  EXPECT_FALSE(room.has_room());
}

TEST(PrefillRoom, WithoutCompanyThereIsAlwaysRoom) {
  PrefillRoom room(8, 32, false);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(room.has_room());
    EXPECT_EQ(room.take(0, 100, 1000, true), 100);
  }
}

TEST(PrefillRoom, AlwaysMakesProgressWithinItsBounds) {
  for (int64_t cap : {1, 7, 512})
    for (int64_t block : {1, 16, 64})
      for (int64_t prefix = 0; prefix < 200'000; prefix += 997)
        for (int64_t remaining : {1, 10, 4000})
          for (int64_t budget : {1, 33, 2048})
            for (bool others_wait : {false, true}) {
              PrefillRoom room(cap, block, true);
              const int64_t rows = room.take(prefix, remaining, budget, others_wait);
              ASSERT_GE(rows, 1);
              ASSERT_LE(rows, std::min({cap, remaining, budget}));
            }
  EXPECT_THROW(PrefillRoom(512, 32, true).take(0, 0, 1, true), InternalError);
  EXPECT_THROW(PrefillRoom(512, 32, true).take(0, 1, 0, true), InternalError);
}

}  // namespace
}  // namespace phalanx
