// prefix_cache.cpp: what is found and what is not, names that survive, and colliding hashes.
#include "runtime/scheduler/prefix_cache.h"

#include <map>
#include <random>
#include <tuple>

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

using Tokens = std::vector<int32_t>;

TEST(PrefixCache, FindsByParentSaltAndTokensOnly) {
  PrefixCache cache(4, 2);
  const ContentId head = cache.insert({}, 5, Tokens{1, 2}, BlockId{0});
  const ContentId tail = cache.insert(head, 5, Tokens{3, 4}, BlockId{1});
  EXPECT_NE(head, tail);
  EXPECT_EQ(cache.find({}, 5, Tokens{1, 2})->block, BlockId{0});
  EXPECT_EQ(cache.find(head, 5, Tokens{3, 4})->block, BlockId{1});
  EXPECT_EQ(cache.find(head, 5, Tokens{3, 4})->content, tail);
  EXPECT_FALSE(cache.find({}, 5, Tokens{3, 4}));
  EXPECT_FALSE(cache.find(head, 5, Tokens{1, 2}));
  EXPECT_FALSE(cache.find({}, 6, Tokens{1, 2}));
  EXPECT_FALSE(cache.find({}, 5, Tokens{2, 1}));
  EXPECT_EQ(cache.num_entries(), 2);
}

TEST(PrefixCache, TheFirstBlockWithAContentStays) {
  PrefixCache cache(3, 1);
  const ContentId content = cache.insert({}, 0, Tokens{9}, BlockId{0});
  EXPECT_EQ(cache.insert({}, 0, Tokens{9}, BlockId{1}), content);
  EXPECT_FALSE(cache.holds(BlockId{1}));
  EXPECT_EQ(cache.find({}, 0, Tokens{9})->block, BlockId{0});
}

TEST(PrefixCache, ANameIsNeverGivenAgainButCanBeRestored) {
  PrefixCache cache(4, 1);
  const ContentId head = cache.insert({}, 0, Tokens{1}, BlockId{0});
  const ContentId tail = cache.insert(head, 0, Tokens{2}, BlockId{1});
  cache.forget(BlockId{0});
  EXPECT_FALSE(cache.find({}, 0, Tokens{1}));
  cache.restore(head, {}, 0, Tokens{1}, BlockId{2});
  ASSERT_TRUE(cache.find({}, 0, Tokens{1}));
  EXPECT_EQ(cache.find({}, 0, Tokens{1})->content, head);
  EXPECT_EQ(cache.find(head, 0, Tokens{2})->content, tail);  // reachable again

  cache.forget(BlockId{2});
  const ContentId other = cache.insert({}, 0, Tokens{1}, BlockId{3});
  EXPECT_NE(other, head);
  EXPECT_FALSE(cache.find(other, 0, Tokens{2}));
  cache.restore(head, {}, 0, Tokens{1}, BlockId{0});  // too late: the content has another name
  EXPECT_EQ(cache.find({}, 0, Tokens{1})->content, other);
  EXPECT_FALSE(cache.holds(BlockId{0}));
}

TEST(PrefixCache, MisuseIsAnInternalError) {
  PrefixCache cache(2, 2);
  EXPECT_THROW(cache.insert({}, 0, Tokens{1}, BlockId{0}), InternalError);
  cache.insert({}, 0, Tokens{1, 2}, BlockId{0});
  EXPECT_THROW(cache.insert({}, 0, Tokens{3, 4}, BlockId{0}), InternalError);
  cache.forget(BlockId{1});  // no entry: nothing happens
}

// With two bits of hash nearly everything collides, and only the comparison decides.
TEST(PrefixCache, CollidingHashesChangeNothing) {
  constexpr int32_t kBlocks = 40;
  std::mt19937 random(2);
  PrefixCache cache(kBlocks, 2, 3);
  std::map<std::tuple<uint64_t, uint64_t, Tokens>, std::pair<ContentId, int32_t>> model;
  std::map<int32_t, std::tuple<uint64_t, uint64_t, Tokens>> by_block;
  for (int step = 0; step < 30'000; ++step) {
    const ContentId parent{random() % 4};
    const uint64_t salt = random() % 2;
    const Tokens tokens = {static_cast<int32_t>(random() % 3), static_cast<int32_t>(random() % 3)};
    const auto key = std::make_tuple(parent.value, salt, tokens);
    const auto found = cache.find(parent, salt, tokens);
    ASSERT_EQ(found.has_value(), model.count(key) == 1);
    if (found) {
      ASSERT_EQ(found->content, model[key].first);
      ASSERT_EQ(found->block.value, model[key].second);
    }
    const auto block = static_cast<int32_t>(random() % kBlocks);
    if (random() % 2 == 0 || by_block.count(block) == 1) {
      cache.forget(BlockId{block});
      if (by_block.count(block) == 1) model.erase(by_block[block]);
      by_block.erase(block);
    } else {
      const ContentId content = cache.insert(parent, salt, tokens, BlockId{block});
      if (model.count(key) == 1) {
        ASSERT_EQ(content, model[key].first);
      } else {
        model[key] = {content, block};
        by_block[block] = key;
      }
    }
    ASSERT_EQ(cache.num_entries(), static_cast<int64_t>(model.size()));
  }
}

}  // namespace
}  // namespace phalanx
