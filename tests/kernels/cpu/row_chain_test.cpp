// row_chain.cpp: random operators over one arena, put off and not, must leave the same bytes.
#include "kernels/cpu/row_chain.h"

#include <algorithm>
#include <cstdlib>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace phalanx::kernels::cpu {
namespace {

constexpr int64_t kArenaFloats = 4096;

/// y[r][i] = 3 x[r][i] + y[r][i] + r, on rows of one arena.
struct Operator {
  int64_t num_rows = 0;
  int64_t num_cols = 0;
  int64_t x = 0, x_stride = 0;
  int64_t y = 0, y_stride = 0;

  void compute(float* arena, int64_t begin, int64_t end) const {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t i = 0; i < num_cols; ++i) {
        float& out = arena[y + r * y_stride + i];
        out = 3 * arena[x + r * x_stride + i] + out + static_cast<float>(r % 7);
      }
    }
  }
};

RowMemory memory_of(const float* arena, int64_t first, int64_t stride, int64_t cols, bool written) {
  return {arena + first, stride * 4, cols * 4, written};
}

class RowChainTest : public ::testing::TestWithParam<int> {};

// Rows that overlap other rows of an earlier operator, in every way: other strides, shifted by a
// part of a row, whole buffers reused; and columns of one matrix side by side, which may share.
TEST_P(RowChainTest, SameBytesAsOneByOne) {
  ThreadTeam team(GetParam(), false);
  std::mt19937 random(7);
  const auto pick = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint32_t>(high - low + 1));
  };
  for (int round = 0; round < 300; ++round) {
    std::vector<float> expected(kArenaFloats);
    for (float& value : expected) value = static_cast<float>(pick(-8, 8));
    std::vector<float> actual = expected;
    RowChain chain(team);
    const int64_t num_operators = pick(1, 8);
    const int64_t rows = pick(1, 40);
    for (int64_t i = 0; i < num_operators; ++i) {
      Operator op;
      op.num_rows = pick(0, 9) == 0 ? pick(1, 40) : rows;
      op.num_cols = pick(1, 16);
      const auto place = [&](int64_t* first, int64_t* stride) {
        *stride = pick(0, 1) == 0 ? 16 : pick(op.num_cols, 40);
        *first = pick(0, 3) * 512 + pick(0, 1) * pick(0, 20);
      };
      place(&op.x, &op.x_stride);
      place(&op.y, &op.y_stride);
      // An operator on its own must be row by row: in place, or apart.
      const int64_t extent = op.num_rows * std::max(op.x_stride, op.y_stride) + 64;
      if (std::abs(op.x - op.y) < extent) {
        op.y = op.x;
        op.y_stride = op.x_stride;
      }
      ASSERT_LT(std::max(op.x, op.y) + extent, kArenaFloats);
      op.compute(expected.data(), 0, op.num_rows);
      float* arena = actual.data();
      chain.add(op.num_rows, pick(0, 1) * 100'000,
                {memory_of(arena, op.x, op.x_stride, op.num_cols, false),
                 memory_of(arena, op.y, op.y_stride, op.num_cols, true)},
                [op, arena](int64_t begin, int64_t end) { op.compute(arena, begin, end); });
    }
    chain.run();
    ASSERT_EQ(actual, expected) << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, RowChainTest, ::testing::Values(1, 2, 5));

TEST(RowChain, RunsTogetherWhatMayAndApartWhatMayNot) {
  ThreadTeam team(1, false);
  RowChain chain(team);
  std::vector<float> arena(1024);
  std::vector<int> walks;  // of which operator, in the order in which they were walked
  const auto add = [&](int id, int64_t first, int64_t stride, int64_t rows = 40) {
    chain.add(rows, 1, {memory_of(arena.data(), first, stride, 8, true)},
              [id, &walks](int64_t, int64_t) { walks.push_back(id); });
  };
  // Three pieces of 16, 16 and 8 rows, each through both: side by side in one matrix, and in place.
  add(0, 0, 16);
  add(1, 8, 16);
  add(2, 0, 16);
  chain.run();
  EXPECT_EQ(walks, (std::vector<int>{0, 1, 2, 0, 1, 2, 0, 1, 2}));
  walks.clear();
  add(0, 0, 16);
  add(1, 4, 16);  // half over the first's columns, all in the same row: together
  add(2, 9, 16);  // its end is the next row's beginning: apart
  chain.run();
  EXPECT_EQ(walks, (std::vector<int>{0, 1, 0, 1, 0, 1, 2, 2, 2}));
  walks.clear();
  add(0, 0, 16);
  add(1, 0, 12);  // another stride
  add(2, 700, 8);
  add(3, 700, 8, 20);  // another number of rows
  chain.run();
  EXPECT_EQ(walks, (std::vector<int>{0, 0, 0, 1, 2, 1, 2, 1, 2, 3, 3}));
  walks.clear();
  chain.run();
  EXPECT_TRUE(walks.empty());
}

TEST(RowChain, ReadersOfTheSameMemoryRunTogether) {
  ThreadTeam team(1, false);
  RowChain chain(team);
  const std::vector<float> arena(1024);
  std::vector<int> walks;
  for (const int id : {0, 1}) {
    chain.add(20, 1, {memory_of(arena.data(), 4 * id, 8 + id, 8, false)},
              [id, &walks](int64_t, int64_t) { walks.push_back(id); });
  }
  chain.run();
  EXPECT_EQ(walks, (std::vector<int>{0, 1, 0, 1}));
}

}  // namespace
}  // namespace phalanx::kernels::cpu
