// admission.cpp: tables of pools and sequences, for both policies.
#include "runtime/scheduler/admission.h"

#include <numeric>

#include <gtest/gtest.h>

namespace phalanx {
namespace {

Sequence sequence_of(int64_t num_tokens, int64_t max_total) {
  Sequence sequence;
  sequence.tokens.resize(static_cast<size_t>(num_tokens));
  std::iota(sequence.tokens.begin(), sequence.tokens.end(), 0);
  sequence.num_prompt_tokens = num_tokens;
  sequence.max_total_tokens = max_total;
  return sequence;
}

TEST(DecideAdmission, MaxUtilizationAsksForTheKnownTokensAndSomeHeadroom) {
  struct Case {
    int64_t used_blocks, num_running, num_tokens;
    Admission expected;
  };
  // A pool of ten blocks of four tokens: the headroom is one block while others run.
  const Case cases[] = {
      {0, 0, 40, Admission::kNow},   {0, 0, 41, Admission::kNever}, {0, 1, 41, Admission::kNever},
      {0, 1, 36, Admission::kNow},   {0, 1, 37, Admission::kLater}, {5, 1, 16, Admission::kNow},
      {5, 1, 17, Admission::kLater}, {5, 9, 16, Admission::kNow},   {10, 1, 1, Admission::kLater},
  };
  for (const Case& c : cases) {
    KvPool pool(10, 4, true);
    BlockTable used;
    pool.extend(c.used_blocks, &used);
    Sequence sequence = sequence_of(c.num_tokens, 1000);
    PrefixMatch match;
    EXPECT_EQ(DecideAdmission{}(pool, c.num_running, 0, 0, &sequence, &match), c.expected)
        << c.used_blocks << " used, " << c.num_tokens << " tokens";
  }
}

TEST(DecideAdmission, CachedBlocksCountOnceTheyAreInUse) {
  KvPool pool(4, 1, true);
  BlockTable table;
  pool.extend(2, &table);
  Sequence other = sequence_of(2, 10);
  pool.record(0, other.tokens, 2, &table);
  BlockTable rest;
  pool.extend(1, &rest);
  // One block is free; four tokens, two of them in blocks that are in use: one too many.
  Sequence sequence = sequence_of(4, 10);
  PrefixMatch match;
  EXPECT_EQ(DecideAdmission{}(pool, 0, 0, 0, &sequence, &match), Admission::kLater);
  // Three tokens fit, because two blocks are shared.
  Sequence smaller = sequence_of(3, 10);
  EXPECT_EQ(DecideAdmission{}(pool, 0, 0, 0, &smaller, &match), Admission::kNow);
  EXPECT_EQ(match.blocks.size(), 2U);
  // Unreferenced, they are free blocks that the match takes: still three in all.
  pool.release(0, other.tokens, &table);
  Sequence three = sequence_of(3, 10);
  EXPECT_EQ(DecideAdmission{}(pool, 0, 0, 0, &three, &match), Admission::kNow);
  Sequence four = sequence_of(4, 10);
  EXPECT_EQ(DecideAdmission{}(pool, 0, 0, 0, &four, &match), Admission::kLater);
}

TEST(DecideAdmission, LooksAgainWhenBlocksCameBackOrSomeStepsLater) {
  KvPool pool(10, 1, true);
  BlockTable used;
  pool.extend(8, &used);
  Sequence sequence = sequence_of(4, 10);
  PrefixMatch match;
  ASSERT_EQ(DecideAdmission{}(pool, 1, 0, 100, &sequence, &match), Admission::kLater);
  // Its prefix enters the cache, but it does not look before some steps have gone by.
  pool.record(0, sequence.tokens, 4, &used);
  EXPECT_EQ(DecideAdmission{}(pool, 1, 0, 101, &sequence, &match), Admission::kLater);
  EXPECT_EQ(DecideAdmission{}(pool, 1, 0, 108, &sequence, &match), Admission::kNow);
  // Nobody runs: it looks at once.
  sequence.wanted_blocks = 5;
  sequence.refused_step = 108;
  EXPECT_EQ(DecideAdmission{}(pool, 0, 0, 109, &sequence, &match), Admission::kNow);
}

TEST(DecideAdmission, GuaranteedNoEvictCountsEveryoneAtTheirLongest) {
  const DecideAdmission decide{SchedulingPolicy::kGuaranteedNoEvict};
  KvPool pool(10, 4, true);
  PrefixMatch match;
  Sequence whole_pool = sequence_of(4, 41);  // the last token is never computed
  EXPECT_EQ(decide(pool, 0, 0, 0, &whole_pool, &match), Admission::kNow);
  Sequence too_long = sequence_of(4, 42);
  EXPECT_EQ(decide(pool, 0, 0, 0, &too_long, &match), Admission::kNever);
  Sequence half = sequence_of(4, 21);
  EXPECT_EQ(decide(pool, 1, 5, 0, &half, &match), Admission::kNow);
  EXPECT_EQ(decide(pool, 1, 6, 0, &half, &match), Admission::kLater);
}

}  // namespace
}  // namespace phalanx
