// Tests parallel/shard_spec.
#include "parallel/shard_spec.h"

#include <vector>

#include <gtest/gtest.h>

namespace phalanx::parallel {
namespace {

TEST(ShardSpec, CutAxesTileTheExtent) {
  for (ShardAxis axis : {ShardAxis::kColumn, ShardAxis::kRow, ShardAxis::kKvColumn})
    for (int tp_size : {1, 2, 3, 4, 8})
      for (int64_t share : {1, 2, 7}) {
        int64_t next = 0;
        for (int rank = 0; rank < tp_size; ++rank) {
          const Slice slice = shard_slice(axis, share * tp_size, tp_size, rank);
          EXPECT_EQ(slice.begin, next);
          EXPECT_EQ(slice.size(), share);
          next = slice.end;
        }
        EXPECT_EQ(next, share * tp_size);
      }
}

TEST(ShardSpec, ReplicatedIsWhole) {
  EXPECT_EQ(shard_slice(ShardAxis::kReplicated, 7, 4, 3), (Slice{0, 7}));
}

TEST(ShardSpec, NeighboursShareAKvHead) {
  const std::vector<int64_t> heads = {0, 0, 0, 0, 1, 1, 1, 1};
  for (int rank = 0; rank < 8; ++rank) {
    const int64_t head = heads[static_cast<size_t>(rank)];
    EXPECT_EQ(shard_slice(ShardAxis::kKvColumn, 2, 8, rank), (Slice{head, head + 1}));
  }
}

TEST(ShardSpec, RefusesWhatDoesNotDivide) {
  EXPECT_FALSE(divides(ShardAxis::kColumn, 7, 2));
  EXPECT_FALSE(divides(ShardAxis::kColumn, 2, 4));
  EXPECT_FALSE(divides(ShardAxis::kRow, 6, 4));
  EXPECT_FALSE(divides(ShardAxis::kKvColumn, 3, 4));
  EXPECT_FALSE(divides(ShardAxis::kKvColumn, 0, 4));
  EXPECT_TRUE(divides(ShardAxis::kKvColumn, 2, 4));
  EXPECT_TRUE(divides(ShardAxis::kReplicated, 7, 4));
  EXPECT_THROW(shard_slice(ShardAxis::kColumn, 7, 2, 0), InternalError);
  EXPECT_THROW(shard_slice(ShardAxis::kKvColumn, 3, 2, 0), InternalError);
  EXPECT_THROW(shard_slice(ShardAxis::kRow, 8, 2, 2), InternalError);
  EXPECT_THROW(shard_slice(ShardAxis::kRow, 8, 2, -1), InternalError);
}

TEST(ShardSpec, PaddedSlicesTileAnyExtent) {
  for (int64_t extent : {0, 1, 5, 8, 4093, 151936})
    for (int tp_size : {1, 2, 3, 8}) {
      int64_t next = 0;
      for (int rank = 0; rank < tp_size; ++rank) {
        const Slice slice = padded_slice(extent, tp_size, rank);
        EXPECT_EQ(slice.begin, next);
        EXPECT_LE(slice.size(), (extent + tp_size - 1) / tp_size);
        next = slice.end;
      }
      EXPECT_EQ(next, extent);
    }
  EXPECT_EQ(padded_slice(5, 4, 2), (Slice{4, 5}));
  EXPECT_EQ(padded_slice(5, 4, 3), (Slice{5, 5}));
}

TEST(ShardSpec, NamesAreStable) {
  EXPECT_STREQ(shard_axis_name(ShardAxis::kReplicated), "replicated");
  EXPECT_STREQ(shard_axis_name(ShardAxis::kColumn), "column");
  EXPECT_STREQ(shard_axis_name(ShardAxis::kRow), "row");
  EXPECT_STREQ(shard_axis_name(ShardAxis::kKvColumn), "kv_column");
}

}  // namespace
}  // namespace phalanx::parallel
