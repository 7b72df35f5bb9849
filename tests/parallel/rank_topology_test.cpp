// Tests parallel/rank_topology.
#include "parallel/rank_topology.h"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::parallel {
namespace {

using ::testing::HasSubstr;

TEST(RankTopology, MapsRanksBothWays) {
  for (int rank = 0; rank < 12; ++rank) {
    const auto topology = make_rank_topology(12, rank, 4, 3);
    ASSERT_TRUE(topology.ok());
    EXPECT_EQ(topology->rank_of(topology->pp_rank(), topology->tp_rank()), rank);
    EXPECT_EQ(topology->is_leader(), rank == 0);
    EXPECT_EQ(topology->is_first_stage(), rank < 4);
    EXPECT_EQ(topology->is_last_stage(), rank >= 8);
    EXPECT_EQ(topology->is_sampler(), rank == 8);
  }
}

TEST(RankTopology, RefusesSizesThatDoNotFitTheWorld) {
  const auto wrong = make_rank_topology(4, 0, 2, 3);
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(wrong.error().message, HasSubstr("tp_size 2 x pp_size 3 needs 6 ranks"));
  EXPECT_THAT(wrong.error().message, HasSubstr("the job has 4"));
  EXPECT_THAT(wrong.error().message, HasSubstr("-np 6"));
  EXPECT_THAT(make_rank_topology(1, 0, 0, 1).error().message, HasSubstr("tp_size is 0"));
  EXPECT_THAT(make_rank_topology(1, 0, 1, -2).error().message, HasSubstr("pp_size is -2"));
  EXPECT_FALSE(make_rank_topology(0, 0, 65536, 65536).ok());  // the product is 0 in 32 bits
}

TEST(RankTopology, StagesTileTheLayers) {
  for (int pp_size = 1; pp_size <= 9; ++pp_size)
    for (int num_layers = pp_size; num_layers <= 40; ++num_layers) {
      int next = 0;
      int shortest = num_layers;
      int longest = 0;
      for (int stage = 0; stage < pp_size; ++stage) {
        const RankTopology topology{pp_size * 2, stage * 2, 2, pp_size};
        const auto [first, last] = topology.layer_range(num_layers);
        EXPECT_EQ(first, next);
        next = last;
        shortest = std::min(shortest, last - first);
        longest = std::max(longest, last - first);
      }
      EXPECT_EQ(next, num_layers);
      EXPECT_LE(longest - shortest, 1);
      EXPECT_GE(shortest, 1);
    }
}

TEST(RankTopology, LongerStagesAreInTheMiddle) {
  const auto lengths = [](int pp_size, int num_layers) {
    std::vector<int> result;
    for (int stage = 0; stage < pp_size; ++stage) {
      const auto [first, last] = RankTopology{pp_size, stage, 1, pp_size}.layer_range(num_layers);
      result.push_back(last - first);
    }
    return result;
  };
  EXPECT_EQ(lengths(4, 9), (std::vector<int>{2, 3, 2, 2}));
  EXPECT_EQ(lengths(4, 10), (std::vector<int>{2, 3, 3, 2}));
  EXPECT_EQ(lengths(4, 11), (std::vector<int>{3, 3, 3, 2}));
  EXPECT_EQ(lengths(2, 7), (std::vector<int>{4, 3}));
  EXPECT_EQ(lengths(3, 7), (std::vector<int>{2, 3, 2}));
}

TEST(RankTopology, RefusesAStageWithoutLayers) {
  EXPECT_THROW((RankTopology{3, 0, 1, 3}.layer_range(2)), InternalError);
}

}  // namespace
}  // namespace phalanx::parallel
