// token_ranking.cpp against a full stable sort: ties, NaN, infinities, every vocabulary size.
#include "runtime/executor/token_ranking.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include <gtest/gtest.h>

namespace phalanx {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<int32_t> naive_ranking(const std::vector<float>& logits) {
  std::vector<int32_t> order;
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] > -kInfinity) order.push_back(static_cast<int32_t>(i));
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  return order;
}

std::vector<float> random_row(std::mt19937& random, size_t size) {
  std::vector<float> row(size);
  std::normal_distribution<float> normal(0.0F, 3.0F);
  const bool has_ties = random() % 3 == 0;
  for (float& logit : row) {
    logit = normal(random);
    if (has_ties) logit = std::round(logit);
    const uint32_t special = random() % 40;
    if (special == 0) logit = kNan;
    if (special == 1) logit = -kInfinity;
    if (special == 2) logit = -0.0F;
    if (special == 3) logit = 0.0F;
  }
  return row;
}

TEST(TokenRanking, EqualsAFullSortHoweverItIsExtended) {
  std::mt19937 random(4);
  TokenRanking ranking;
  for (int i = 0; i < 600; ++i) {
    const std::vector<float> row = random_row(random, 1 + random() % 5000);
    const std::vector<int32_t> expected = naive_ranking(row);
    ranking.reset(row);
    if (expected.empty()) {
      EXPECT_EQ(ranking.max(), -kInfinity);
      continue;
    }
    ASSERT_EQ(ranking.max(), row[static_cast<size_t>(expected[0])]);
    ASSERT_EQ(ranking.best(), expected[0]);
    for (size_t count = 1 + random() % 8;; count *= 1 + random() % 6) {
      const size_t known = ranking.extend(count);
      ASSERT_GE(known, std::min(count, expected.size()));
      ASSERT_LE(known, expected.size());
      for (size_t rank = 0; rank < known; ++rank) ASSERT_EQ(ranking.token(rank), expected[rank]);
      ASSERT_TRUE(!ranking.complete() || known == expected.size());
      if (ranking.complete()) break;
      ++count;
    }
  }
}

TEST(TokenRanking, RowsOfOneValueAndOfNothing) {
  TokenRanking ranking;
  const std::vector<float> same(1000, 1.5F);
  ranking.reset(same);
  EXPECT_EQ(ranking.best(), 0);
  ASSERT_GE(ranking.extend(10), 10U);
  for (size_t rank = 0; rank < 10; ++rank)
    EXPECT_EQ(ranking.token(rank), static_cast<int32_t>(rank));
  const std::vector<float> nothing(1000, -kInfinity);
  ranking.reset(nothing);
  EXPECT_EQ(ranking.extend(5), 0U);
  EXPECT_TRUE(ranking.complete());
  const std::vector<float> nans(70, kNan);
  ranking.reset(nans);
  EXPECT_EQ(ranking.max(), -kInfinity);
}

TEST(TokenRanking, ZerosOfBothSignsTie) {
  TokenRanking ranking;
  const std::vector<float> row = {-1.0F, -0.0F, 0.0F, -0.0F};
  ranking.reset(row);
  EXPECT_EQ(ranking.best(), 1);
  ASSERT_EQ(ranking.extend(4), 4U);
  EXPECT_EQ(ranking.token(0), 1);
  EXPECT_EQ(ranking.token(1), 2);
  EXPECT_EQ(ranking.token(2), 3);
}

}  // namespace
}  // namespace phalanx
