// The table of tunings, its buckets, and law 1: no tuning changes a bit of a product, plain or
// gated, in any tier, format, number of rows or threads.
#include "kernels/cpu/linear_tuning.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_operators.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/reference/linear_reference.h"
#include "runtime/base/check.h"
#include "tests/kernels/stored_matrix.h"

namespace phalanx::kernels::cpu {
namespace {

using test::OwnedActivation;
using test::random_floats;
using test::StoredMatrix;

constexpr WeightFormat kFormats[] = {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                                     WeightFormat::kW4, WeightFormat::kFp8};
constexpr int64_t kGroup = 32;
constexpr int64_t kNumCols = 256;

TEST(RowBucket, EveryNumberOfRowsIsInTheBucketThatHoldsIt) {
  for (int64_t rows = 1; rows <= 2000; ++rows) {
    const RowBucket& bucket = kRowBuckets[row_bucket(rows)];
    EXPECT_LE(bucket.least, rows);
    EXPECT_GE(bucket.most, rows);
  }
  EXPECT_EQ(row_bucket(std::numeric_limits<int64_t>::max()), kNumRowBuckets - 1);
  for (int i = 1; i < kNumRowBuckets; ++i)
    EXPECT_EQ(kRowBuckets[i].least, kRowBuckets[i - 1].most + 1);
}

TEST(RowBucket, HasAName) {
  EXPECT_EQ(row_bucket_name(row_bucket(2)), "2");
  EXPECT_EQ(row_bucket_name(row_bucket(3)), "3-4");
  EXPECT_EQ(row_bucket_name(row_bucket(256)), "129-256");
  EXPECT_EQ(row_bucket_name(row_bucket(257)), "257+");
}

LinearTuning with_tile_rows(int64_t rows) {
  LinearTuning tuning;
  tuning.tile_rows = rows;
  return tuning;
}

TEST(LinearTunings, FindsByTheWholeKey) {
  const LinearKey key{WeightFormat::kW8, 3072, 2048, 128, false, 2};
  std::vector<LinearKey> others(6, key);
  others[0].format = WeightFormat::kW4;
  others[1].num_outputs = 3073;
  others[2].num_cols = 1024;
  others[3].group_size = 64;
  others[4].is_gated = true;
  others[5].row_bucket = 3;
  const LinearTunings one({{key, with_tile_rows(7)}});
  EXPECT_EQ(one.find(key), with_tile_rows(7));
  for (const LinearKey& other : others) EXPECT_TRUE(one.find(other).is_default());

  std::vector<LinearTunings::Entry> entries = {{key, with_tile_rows(7)}};
  for (size_t i = 0; i < others.size(); ++i)
    entries.push_back({others[i], with_tile_rows(10 + static_cast<int64_t>(i))});
  const LinearTunings all(entries);
  EXPECT_EQ(all.find(key), with_tile_rows(7));
  for (size_t i = 0; i < others.size(); ++i)
    EXPECT_EQ(all.find(others[i]), with_tile_rows(10 + static_cast<int64_t>(i)));
  EXPECT_TRUE(LinearTunings().find(key).is_default());
}

TEST(LinearTunings, RefusesAKeyThatComesTwice) {
  const LinearKey key{WeightFormat::kF32, 1, 1, 0, false, 0};
  EXPECT_THROW(LinearTunings({{key, {}}, {key, with_tile_rows(1)}}), InternalError);
}

/// Anything that a tuning file may hold, with small values more often than not.
LinearTuning random_tuning(std::mt19937& random) {
  const auto pick = [&](int64_t usual, int64_t most) {
    const int64_t limit = random() % 8 == 0 ? most : usual;
    return static_cast<int64_t>(random() % static_cast<uint64_t>(limit + 1));
  };
  LinearTuning tuning;
  tuning.tile_rows = pick(7, kMostTileRows);
  tuning.split = static_cast<LinearSplit>(random() % 4);
  tuning.row_parts = pick(4, kMostRowParts);
  tuning.piece_panels = pick(6, kMostPiecePanels);
  tuning.ahead_bytes = pick(32768, kMostAheadBytes);
  return tuning;
}

std::string describe(const LinearTuning& t) {
  return "tile_rows " + std::to_string(t.tile_rows) + " split " +
         std::to_string(static_cast<int>(t.split)) + " row_parts " + std::to_string(t.row_parts) +
         " piece_panels " + std::to_string(t.piece_panels) + " ahead_bytes " +
         std::to_string(t.ahead_bytes);
}

std::vector<std::byte> bytes_of(const void* data, int64_t size) {
  const auto* first = static_cast<const std::byte*>(data);
  return {first, first + size};
}

/// Codes, scales and sums.
std::vector<std::byte> bytes_of(const ActivationView& view, int64_t rows) {
  std::vector<std::byte> bytes =
      bytes_of(view.codes, rows * view.num_cols * activation_code_bytes(view.form));
  if (!is_quantized(view.form)) return bytes;
  const int64_t groups = rows * view.num_cols / view.group_size;
  for (const void* part : {static_cast<void*>(view.scales), static_cast<void*>(view.sums)}) {
    if (part == nullptr) continue;
    const auto more = bytes_of(part, groups * 4);
    bytes.insert(bytes.end(), more.begin(), more.end());
  }
  return bytes;
}

/// body(tier, team) for every tier of this machine and teams of 1, 2 and 3.
template <typename Body>
void for_each_team(const Body& body) {
  for (const int threads : {1, 2, 3}) {
    ThreadTeam team(threads, /*spin=*/false);
    for (const IsaTier tier : kIsaTiers)
      if (tier <= best_isa_tier()) body(tier, team);
  }
}

TEST(LinearTuning, ChangesNoBitOfAProduct) {
  std::mt19937 random(1);
  for (const WeightFormat format : kFormats) {
    for (const int64_t num_outputs : {64, 200, 640}) {
      const int64_t group = is_quantized(format) ? kGroup : 0;
      const StoredMatrix stored({format, num_outputs, kNumCols, group, true}, 1);
      const auto bias = random_floats(static_cast<size_t>(num_outputs), 2);
      const MatrixSpec spec = stored.spec(2, num_outputs == 200 ? bias.data() : nullptr);
      for (const int64_t rows : {1, 2, 3, 5, 8, 13, 40}) {
        const auto x = random_floats(static_cast<size_t>(rows * kNumCols), 3);
        OwnedActivation input(activation_form(format), rows, kNumCols, group);
        reference::convert_rows({x.data(), kNumCols}, rows, input.view);
        std::vector<float> y(static_cast<size_t>(rows * num_outputs));
        const auto size = static_cast<int64_t>(y.size() * sizeof(float));
        reference::linear(*reference::pack_matrix(spec), input.view, rows, {y.data(), num_outputs});
        const auto expected = bytes_of(y.data(), size);
        for_each_team([&](IsaTier tier, ThreadTeam& team) {
          const auto matrix = pack_matrix(spec, team);
          for (int i = 0; i < 6; ++i) {
            const LinearTuning tuning = i == 0 ? LinearTuning{} : random_tuning(random);
            std::fill(y.begin(), y.end(), std::numeric_limits<float>::quiet_NaN());
            linear(*matrix, input.view, rows, {y.data(), num_outputs}, tier, team, tuning);
            ASSERT_EQ(bytes_of(y.data(), size), expected)
                << weight_format_name(format) << " " << isa_tier_name(tier) << " N " << num_outputs
                << " rows " << rows << " threads " << team.size() << " " << describe(tuning);
          }
        });
      }
    }
  }
}

TEST(LinearTuning, ChangesNoBitOfAGatedProduct) {
  std::mt19937 random(2);
  for (const WeightFormat format : kFormats) {
    const int64_t group = is_quantized(format) ? kGroup : 0;
    for (const int64_t half : {128, 640}) {
      // Groups of 128 make steps of two panels.
      const ActivationForm form = activation_form(format);
      const int64_t out_group = is_quantized(form) ? 128 : 0;
      const StoredMatrix stored({format, 2 * half, kNumCols, group}, 1);
      const MatrixSpec spec = stored.spec();
      for (const int64_t rows : {1, 4, 7, 21}) {
        const auto x = random_floats(static_cast<size_t>(rows * kNumCols), 3);
        OwnedActivation input(form, rows, kNumCols, group);
        reference::convert_rows({x.data(), kNumCols}, rows, input.view);
        std::vector<std::byte> expected;  // the portable tier's, on one thread, not tuned
        for_each_team([&](IsaTier tier, ThreadTeam& team) {
          const auto matrix = pack_matrix(spec, team);
          for (int i = 0; i < 6; ++i) {
            const LinearTuning tuning = i == 0 ? LinearTuning{} : random_tuning(random);
            OwnedActivation out(form, rows, half, out_group);
            gated_linear(*matrix, input.view, rows, out.view, row_kernels(tier).silu_mul, tier,
                         team, tuning);
            const auto got = bytes_of(out.view, rows);
            if (expected.empty()) expected = got;
            ASSERT_EQ(got, expected)
                << weight_format_name(format) << " " << isa_tier_name(tier) << " half " << half
                << " rows " << rows << " threads " << team.size() << " " << describe(tuning);
          }
        });
      }
    }
  }
}

/// A tuning that is found is used: tiles are counted.
TEST(LinearTuning, OperatorsLookItUp) {
  constexpr int64_t kOutputs = 4096;  // large enough to be shared by default
  const StoredMatrix stored({WeightFormat::kF32, kOutputs, kNumCols}, 1);
  const auto x = random_floats(2 * kNumCols, 3);
  std::vector<float> y(2 * kOutputs);
  WorkCounter work;
  CpuBackendOptions options;
  options.num_threads = 2;
  options.spin = false;
  options.work = &work;
  LinearTuning one_thread;
  one_thread.split = LinearSplit::kOneThread;
  one_thread.tile_rows = 1;
  CpuOperators operators(options);
  const auto matrix = operators.pack_matrix(stored.spec());
  OwnedActivation input(ActivationForm::kF32, 2, kNumCols, 0);
  operators.convert_rows({x.data(), kNumCols}, 2, input.view);
  const auto tiles_of_a_product = [&](int64_t rows) {
    const uint64_t before = work.total();
    operators.linear(*matrix, input.view, rows, {y.data(), kOutputs});
    return work.total() - before;
  };
  EXPECT_EQ(tiles_of_a_product(2), kOutputs / 64) << "both rows are a tile";
  operators.set_tunings(std::make_shared<LinearTunings>(
      std::vector<LinearTunings::Entry>{{linear_key(*matrix, 2, /*is_gated=*/false), one_thread}}));
  EXPECT_EQ(tiles_of_a_product(2), 2 * kOutputs / 64) << "each row is a tile";
  EXPECT_EQ(tiles_of_a_product(1), kOutputs / 64) << "another bucket";
  operators.set_tunings(nullptr);
  EXPECT_EQ(tiles_of_a_product(2), kOutputs / 64);
}

}  // namespace
}  // namespace phalanx::kernels::cpu
