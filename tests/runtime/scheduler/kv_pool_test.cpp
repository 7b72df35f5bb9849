// kv_pool.cpp: matching, sharing, eviction order and the return of blocks.
#include "runtime/scheduler/kv_pool.h"

#include <numeric>

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

using Tokens = std::vector<int32_t>;

Tokens ascending(size_t size, int32_t first = 0) {
  Tokens tokens(size);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A sequence that computes all its tokens and leaves them in the cache.
BlockTable filled(KvPool* pool, const Tokens& tokens) {
  BlockTable table;
  pool->extend(pool->blocks_for(static_cast<int64_t>(tokens.size())), &table);
  pool->record(0, tokens, static_cast<int64_t>(tokens.size()), &table);
  return table;
}

int64_t num_matched(const KvPool& pool, const Tokens& tokens, uint64_t salt = 0) {
  PrefixMatch match;
  pool.match(salt, tokens, &match);
  return static_cast<int64_t>(match.blocks.size());
}

TEST(KvPool, MatchesFullBlocksButLeavesATokenToCompute) {
  KvPool pool(10, 4, true);
  BlockTable table = filled(&pool, ascending(11));
  EXPECT_EQ(num_matched(pool, ascending(4)), 0);  // all of it is cached, but logits are needed
  EXPECT_EQ(num_matched(pool, ascending(5)), 1);
  EXPECT_EQ(num_matched(pool, ascending(8)), 1);
  EXPECT_EQ(num_matched(pool, ascending(9)), 2);
  EXPECT_EQ(num_matched(pool, ascending(100)), 2);   // the third block was never full
  EXPECT_EQ(num_matched(pool, ascending(9), 1), 0);  // another salt
  EXPECT_EQ(num_matched(pool, ascending(9, 1)), 0);
  EXPECT_EQ(num_matched(pool, {}), 0);
}

TEST(KvPool, RecordsOnlyWhatIsKnownAndComputed) {
  KvPool pool(10, 4, true);
  BlockTable table;
  pool.extend(3, &table);
  const Tokens tokens = ascending(12);
  pool.record(0, tokens, 7, &table);
  EXPECT_EQ(num_matched(pool, ascending(12)), 1);
  pool.record(0, std::span(tokens).first(8), 12, &table);
  EXPECT_EQ(num_matched(pool, ascending(13)), 2);
  pool.record(0, tokens, 12, &table);
  EXPECT_EQ(num_matched(pool, ascending(13)), 3);
}

TEST(KvPool, SharedBlocksAreFreeOnlyAfterTheLastRelease) {
  KvPool pool(4, 2, true);
  BlockTable first = filled(&pool, ascending(4));
  PrefixMatch match;
  pool.match(0, ascending(5), &match);
  EXPECT_EQ(match.num_unreferenced, 0);
  BlockTable second;
  pool.adopt(match, &second);
  EXPECT_EQ(second.blocks, first.blocks);
  EXPECT_EQ(pool.num_references(first.blocks[0]), 2);
  pool.release(0, ascending(4), &first);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(pool.num_cached(), 0);
  pool.release(0, ascending(5), &second);
  EXPECT_EQ(pool.num_free(), 4);
  EXPECT_EQ(pool.num_cached(), 2);
  pool.match(0, ascending(5), &match);
  EXPECT_EQ(match.num_unreferenced, 2);
}

TEST(KvPool, EvictsTheTailOfTheLeastRecentlyFreedSequenceFirst) {
  KvPool pool(6, 1, true);
  const Tokens a = {1, 2, 3};
  const Tokens b = {4, 5, 6};
  BlockTable table_a = filled(&pool, a);
  BlockTable table_b = filled(&pool, b);
  pool.release(0, a, &table_a);
  pool.release(0, b, &table_b);
  EXPECT_EQ(pool.num_cached(), 6);
  BlockTable other;
  const auto left = [&](const Tokens& tokens) {
    Tokens longer = tokens;
    longer.push_back(0);
    return num_matched(pool, longer);
  };
  const std::vector<std::pair<int64_t, int64_t>> expected = {{2, 3}, {1, 3}, {0, 3},
                                                             {0, 2}, {0, 1}, {0, 0}};
  for (const auto& [left_of_a, left_of_b] : expected) {
    pool.extend(1, &other);
    EXPECT_EQ(left(a), left_of_a);
    EXPECT_EQ(left(b), left_of_b);
  }
  EXPECT_EQ(pool.num_cached(), 0);
  EXPECT_THROW(pool.extend(1, &other), InternalError);
}

TEST(KvPool, BlocksWithoutContentAreUsedBeforeCachedOnes) {
  KvPool pool(4, 2, true);
  const Tokens tokens = ascending(5);  // two full blocks and a half one
  BlockTable table = filled(&pool, tokens);
  const BlockId half = table.blocks[2];
  pool.release(0, tokens, &table);
  BlockTable other;
  pool.extend(2, &other);
  EXPECT_EQ(other.blocks[0], half);
  EXPECT_EQ(num_matched(pool, tokens), 2);
}

TEST(KvPool, ATwinTakesOverWhenTheCachedBlockIsGone) {
  KvPool pool(6, 1, true);
  const Tokens shared = {1, 2};
  const Tokens longer = {1, 2, 3};
  BlockTable first = filled(&pool, shared);
  BlockTable twin = filled(&pool, longer);  // own blocks for 1 and 2, under the same names
  pool.release(0, shared, &first);
  BlockTable other;
  pool.extend(3, &other);  // the fresh block and those that the cache had for 1 and 2
  EXPECT_EQ(num_matched(pool, {1, 2, 3, 4}), 0);
  pool.release(0, longer, &twin);
  EXPECT_EQ(num_matched(pool, {1, 2, 3, 4}), 3);
  EXPECT_EQ(pool.num_cached(), 3);
}

TEST(KvPool, WithoutTheCacheNothingIsEverFound) {
  KvPool pool(4, 1, false);
  const Tokens tokens = {1, 2};
  BlockTable table = filled(&pool, tokens);
  EXPECT_EQ(num_matched(pool, {1, 2, 3}), 0);
  pool.release(0, tokens, &table);
  EXPECT_EQ(num_matched(pool, {1, 2, 3}), 0);
  EXPECT_EQ(pool.num_cached(), 0);
  EXPECT_EQ(pool.num_free(), 4);
}

}  // namespace
}  // namespace phalanx
