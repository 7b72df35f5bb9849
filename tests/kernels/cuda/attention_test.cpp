// Attention on the emulated device: int8 and f32 equal to the oracle bit by bit, bf16 within a
// tolerance of it; and a row's bits depend on nothing but what the row sees (law 1).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu_backend.h"
#include "kernels/cuda/attention_launches.h"
#include "kernels/operators.h"
#include "tests/kernels/attention_world.h"
#include "tests/kernels/cuda/attention_operators.h"
#include "tests/kernels/cuda/thread_orders.h"
#include "tests/kernels/float_rows.h"

namespace phalanx::kernels::cuda {
namespace {

using kernels::test::first_difference;
using test::AttentionOperators;
using test::AttentionOptions;
using test::in_every_thread_order;

constexpr int64_t kWhole = 1 << 20;

/// Sums of the same products in another order differ by some 2^-24 of their terms' magnitude each;
/// but a weight that a score's last bit moves to its other neighbour in bf16 changes by 2^-8 of
/// itself. With random values of magnitude 1 results are sums of values * weights that add up to 1,
/// and such moves are rare: the bound is one of them on a weight of 1/2.
constexpr float kBf16Tolerance = 0.5F * 0x1p-8F;

std::string beyond(const std::vector<float>& a, const std::vector<float>& b, float tolerance) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::fabs(a[i] - b[i]) <= tolerance) continue;  // not so for NaN
    return "element " + std::to_string(i) + ": " + std::to_string(a[i]) + " against " +
           std::to_string(b[i]);
  }
  return "";
}

/// Against the oracle, as the format promises.
std::string wrong(KvFormat format, const std::vector<float>& got,
                  const std::vector<float>& expected) {
  return format == KvFormat::kBf16 ? beyond(got, expected, kBf16Tolerance)
                                   : first_difference(got, expected);
}

class CudaAttention : public ::testing::TestWithParam<KvFormat> {};

INSTANTIATE_TEST_SUITE_P(Kv, CudaAttention, ::testing::Values(KvFormat::kBf16, KvFormat::kInt8),
                         [](const auto& test) { return std::string(kv_format_name(test.param)); });

/// All outputs of a world, one after the other.
std::vector<float> outputs(const AttentionWorld& world, size_t num_sequences) {
  std::vector<float> all;
  for (size_t i = 0; i < num_sequences; ++i)
    all.insert(all.end(), world.output(i).begin(), world.output(i).end());
  return all;
}

// ---------------------------------------------------------------------- against the oracle ----

TEST_P(CudaAttention, EveryHeadDimOfTiles) {
  const auto reference = make_reference_operators();
  for (const int64_t head_dim : {32, 64, 80, 96, 128, 256}) {
    ASSERT_TRUE(attention_has_tiles(GetParam(), head_dim));
    const AttentionShape shape{GetParam(), head_dim, 2, {0, 0, 1, 1}, 0};
    const SequenceData data(shape, 130, 1, static_cast<int>(head_dim));
    const std::vector<float> expected = attend_alone(*reference, shape, data, kWhole);
    AttentionOperators device;
    const std::vector<float> whole = attend_alone(device, shape, data, kWhole);
    EXPECT_EQ(wrong(GetParam(), whole, expected), "") << "head_dim " << head_dim;
    AttentionWorld world(device, shape, {data});
    world.step({{0, 126}});
    while (world.done(0) < 130) world.step({{0, 1}});
    EXPECT_EQ(first_difference(world.output(0), whole), "") << "decoded, head_dim " << head_dim;
  }
}

TEST_P(CudaAttention, EveryContextAroundBlocksAndPartitions) {
  const auto reference = make_reference_operators();
  const AttentionShape shape{GetParam(), 64, 1, {0, 0, 0, 0}, 0};
  std::vector<SequenceData> sequences;
  for (const int64_t length : {1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257, 310})
    sequences.emplace_back(shape, length, 2, static_cast<int>(length));
  AttentionOperators device;
  AttentionWorld world(device, shape, sequences);
  std::vector<std::pair<size_t, int64_t>> all_but_one, last;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (world.length(i) > 1) all_but_one.emplace_back(i, world.length(i) - 1);
    last.emplace_back(i, 1);
  }
  world.step(all_but_one);
  world.step(last);
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_EQ(
        wrong(GetParam(), world.output(i), attend_alone(*reference, shape, sequences[i], kWhole)),
        "")
        << "a context of " << world.length(i);
  }
}

TEST_P(CudaAttention, EveryGrouping) {
  const auto reference = make_reference_operators();
  const std::vector<std::vector<int32_t>> maps = {
      {0},                          // one head
      {0, 1, 2},                    // no groups
      {0, 0, 0, 0, 0, 0, 0},        // seven heads on one
      {0, 0, 0, 1, 2, 2, 2, 2, 2},  // uneven groups
      {0, 2},                       // a KV head that no query reads
      std::vector<int32_t>(8, 0),
      std::vector<int32_t>(19, 0),  // more heads than a small tile has rows
      std::vector<int32_t>(67, 1),  // and more than a large one
  };
  for (const auto& map : maps) {
    const AttentionShape shape{GetParam(), 32, 3, map, 0};
    const SequenceData data(shape, 45, 3, static_cast<int>(map.size()));
    const std::vector<float> expected = attend_alone(*reference, shape, data, kWhole);
    AttentionOperators device;
    const std::vector<float> whole = attend_alone(device, shape, data, kWhole);
    EXPECT_EQ(wrong(GetParam(), whole, expected), "") << map.size() << " query heads";
    AttentionWorld world(device, shape, {data});
    for (const int64_t rows : {1, 1, 5, 2, 24, 3, 1, 7, 1}) world.step({{0, rows}});
    EXPECT_EQ(first_difference(world.output(0), whole), "")
        << map.size() << " query heads, in chunks";
  }
}

TEST_P(CudaAttention, SlidingWindows) {
  const auto reference = make_reference_operators();
  for (const int64_t window : {1, 33, 128, 129}) {
    const AttentionShape shape{GetParam(), 32, 1, {0, 0, 0}, window};
    const SequenceData data(shape, 270, 4, 0);
    const std::vector<float> expected = attend_alone(*reference, shape, data, kWhole);
    AttentionOperators device;
    EXPECT_EQ(wrong(GetParam(), attend_alone(device, shape, data, kWhole), expected), "")
        << "window " << window;
    AttentionWorld world(device, shape, {data});
    for (const int64_t rows : {30, 1, 1, 1, 40, 57, 1, 120, 5, 1, 1, 12}) world.step({{0, rows}});
    EXPECT_EQ(wrong(GetParam(), world.output(0), expected), "")
        << "window " << window << ", in chunks";
  }
}

/// What has no tiles.
TEST(CudaAttentionPlain, IsTheOracles) {
  const auto reference = make_reference_operators();
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8}) {
    for (const int64_t head_dim : {8, 16, 24, 64, 200}) {
      if (attention_has_tiles(format, head_dim)) continue;
      for (const int64_t window : {0, 40}) {
        if (window > 0 && head_dim != 24) continue;
        const AttentionShape shape{format, head_dim, 2, {0, 0, 1}, window};
        const SequenceData data(shape, 131, 5, static_cast<int>(head_dim));
        AttentionOperators device;
        AttentionWorld expected(*reference, shape, {data});
        AttentionWorld got(device, shape, {data});
        for (const int64_t rows : {20, 107, 1, 1, 1, 1}) {
          expected.step({{0, rows}});
          got.step({{0, rows}});
        }
        EXPECT_EQ(wrong(format, got.output(0), expected.output(0)), "")
            << kv_format_name(format) << ", head_dim " << head_dim << ", window " << window;
      }
    }
  }
}

// ------------------------------------------------------------------------------------ law 1 ----

TEST_P(CudaAttention, ChunksDoNotMatter) {
  for (const int64_t window : {0, 140}) {
    const AttentionShape shape{GetParam(), 32, 1, {0, 0, 0, 0}, window};
    const SequenceData data(shape, 290, 6, 0);
    AttentionOperators device;
    const std::vector<float> whole = attend_alone(device, shape, data, kWhole);
    EXPECT_EQ(first_difference(attend_alone(device, shape, data, 70), whole), "");
    AttentionWorld world(device, shape, {data});
    for (const int64_t rows : {31, 1, 1, 1, 92, 1, 1, 1, 1, 16, 15, 17, 4, 73, 1, 1, 31, 1, 1})
      world.step({{0, rows}});
    EXPECT_EQ(first_difference(world.output(0), whole), "") << "window " << window;
  }
}

TEST_P(CudaAttention, CompanyDoesNotMatterNorTheOrderOfThreads) {
  const AttentionShape shape{GetParam(), 32, 1, {0, 0, 0, 0, 0, 0, 0}, 0};
  std::vector<SequenceData> sequences;
  for (const int64_t length : {3, 33, 129, 20, 160})
    sequences.emplace_back(shape, length, 7, static_cast<int>(length));
  std::vector<float> alone;
  for (const SequenceData& data : sequences) {
    AttentionOperators device;
    const std::vector<float> rows = attend_alone(device, shape, data, kWhole);
    alone.insert(alone.end(), rows.begin(), rows.end());
  }
  const std::vector<float> together = in_every_thread_order([&] {
    AttentionOptions options;
    options.num_sequences = 9;
    options.max_rows = 135;
    AttentionOperators device(options);
    AttentionWorld world(device, shape, sequences);
    world.step({{1, 31}, {2, 1}, {4, 100}});
    world.step({{4, 1}, {0, 1}, {1, 1}, {2, 126}});
    world.step({{0, 1}, {1, 1}, {2, 1}, {4, 1}});
    world.step({{2, 1}, {4, 57}, {0, 1}, {3, 19}});
    world.step({{3, 1}, {4, 1}});
    return outputs(world, sequences.size());
  });
  EXPECT_EQ(first_difference(together, alone), "");
}

/// A pool with the keys and values of two sequences, and steps that attend to them.
class WrittenContexts {
 public:
  WrittenContexts(const AttentionShape& shape, int64_t length, int64_t other_length)
      : shape_(shape), length_(length), data_(shape, length + other_length, 8, 0) {
    const int64_t blocks = (length + 31) / 32;
    const int64_t other_blocks = (other_length + 31) / 32;
    for (int64_t i = 0; i < blocks; ++i) table_.push_back(static_cast<int32_t>(2 * i + 1));
    for (int64_t i = 0; i < other_blocks; ++i) other_table_.push_back(static_cast<int32_t>(2 * i));
    num_blocks_ = 2 * std::max(blocks, other_blocks) + 2;
    const int64_t bytes =
        num_blocks_ * shape.num_kv_heads * kv_block_bytes(shape.format, shape.head_dim);
    pool_ = reference_->allocate(bytes);
    std::fill_n(pool_.get(), bytes, std::byte{0xff});
    const std::vector<SequenceRows> all{{0, length, 0, table_.data()},
                                        {length, other_length, 0, other_table_.data()}};
    AttentionOperators().write_kv({data_.k.data(), shape.kv_cols()},
                                  {data_.v.data(), shape.kv_cols()}, all, kv());
  }

  KvLayerView kv() const {
    return {shape_.format, pool_.get(), num_blocks_, shape_.num_kv_heads, shape_.head_dim};
  }
  AttentionParams params() const {
    AttentionParams params;
    params.num_query_heads = shape_.num_query_heads();
    params.kv_head_of_query = shape_.kv_head_of_query.data();
    params.scale = 0.2F;
    return params;
  }
  /// The last rows of the first sequence, then the last ones of the other.
  std::vector<SequenceRows> last(int64_t num_rows, int64_t other_rows) const {
    const int64_t other_length = static_cast<int64_t>(data_.q.size()) / shape_.q_cols() - length_;
    return {{0, num_rows, length_ - num_rows, table_.data()},
            {num_rows, other_rows, other_length - other_rows, other_table_.data()}};
  }
  ConstRows queries() const { return {data_.q.data(), shape_.q_cols()}; }

 private:
  std::unique_ptr<Operators> reference_ = make_reference_operators();
  AttentionShape shape_;
  int64_t length_;
  SequenceData data_;
  std::vector<int32_t> table_, other_table_;
  int64_t num_blocks_ = 0;
  std::shared_ptr<std::byte> pool_;
};

TEST_P(CudaAttention, HowAContextIsCutDoesNotMatter) {
  const AttentionShape shape{GetParam(), 64, 1, {0, 0, 0, 0}, 0};
  const WrittenContexts contexts(shape, 1010, 140);
  for (const auto& [num_rows, other_rows] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {6, 1}, {1, 30}}) {
    const auto run = [&](const AttentionOptions& options) {
      AttentionOperators device(options);
      std::vector<float> y(static_cast<size_t>((num_rows + other_rows) * shape.q_cols()));
      device.attention(contexts.queries(), contexts.last(num_rows, other_rows), contexts.kv(),
                       contexts.params(), {y.data(), shape.q_cols()});
      return y;
    };
    const std::vector<float> expected = run({.target_blocks = 1, .partials_bytes = 0});
    for (const int64_t blocks : {2, 3, 5, 9, 64}) {
      EXPECT_EQ(first_difference(run({.target_blocks = blocks}), expected), "")
          << blocks << " blocks";
    }
    // Of partial results of 64 rows; and of 4 rows, where a step of decode wants one more.
    for (const int64_t rows : {64, 4}) {
      EXPECT_EQ(first_difference(run({.target_blocks = 64, .partials_bytes = 9 * rows * 66 * 4}),
                                 expected),
                "")
          << "memory of 9 partial results of " << rows << " rows";
    }
  }
}

TEST_P(CudaAttention, ManyPartialResults) {
  // Blocks that come again and again: more partitions than a merge takes at once.
  const AttentionShape shape{GetParam(), 32, 1, {0, 0, 0}, 0};
  const WrittenContexts contexts(shape, 320, 1);
  const std::vector<SequenceRows> written = contexts.last(1, 1);
  std::vector<int32_t> table;
  // Some come after the first merge only, so that maxima grow then.
  for (size_t i = 0; i < 310; ++i)
    table.push_back(written[0].block_table[i < 128 ? i % 3 : i * 7 % 10]);
  const std::vector<SequenceRows> rows{{0, 3, 70 * 128 - 2, table.data()}};
  for (const int64_t window : {0, 40 * 128}) {
    AttentionParams params = contexts.params();
    params.sliding_window = window;
    const auto run = [&](int64_t target_blocks) {
      AttentionOperators device({.target_blocks = target_blocks, .max_context = 1 << 14});
      std::vector<float> y(static_cast<size_t>(3 * shape.q_cols()));
      device.attention(contexts.queries(), rows, contexts.kv(), params, {y.data(), shape.q_cols()});
      return y;
    };
    EXPECT_EQ(first_difference(run(8), run(1)), "") << "window " << window;
  }
}

TEST_P(CudaAttention, CutContextsInEveryThreadOrder) {
  const AttentionShape shape{GetParam(), 32, 2, {0, 0, 0, 1, 1, 1}, 0};
  const WrittenContexts contexts(shape, 522, 260);
  const auto run = [&](AttentionOperators& device) {
    std::vector<float> y(static_cast<size_t>(7 * shape.q_cols()));
    device.attention(contexts.queries(), contexts.last(6, 1), contexts.kv(), contexts.params(),
                     {y.data(), shape.q_cols()});
    return y;
  };
  AttentionOperators uncut({.target_blocks = 1, .partials_bytes = 0});
  const std::vector<float> expected = run(uncut);
  const std::vector<float> got = in_every_thread_order([&] {
    AttentionOperators device({.target_blocks = 64});
    run(device);
    return run(device);  // counters have gone back to 0
  });
  EXPECT_EQ(first_difference(got, expected), "");
}

TEST_P(CudaAttention, WhatUnwrittenSlotsHoldDoesNotMatter) {
  for (const int64_t head_dim : {24, 64}) {
    const AttentionShape shape{GetParam(), head_dim, 2, {0, 0, 1}, 0};
    const SequenceData data(shape, 150, 10, 0);
    for (const int64_t chunk : {int64_t{47}, kWhole}) {
      AttentionOperators device;
      EXPECT_EQ(first_difference(attend_alone(device, shape, data, chunk, PoolFill::kNans),
                                 attend_alone(device, shape, data, chunk, PoolFill::kZeros)),
                "");
    }
  }
}

TEST_P(CudaAttention, WhatLaterTokensHoldDoesNotMatter) {
  for (const int64_t window : {0, 40}) {
    const AttentionShape shape{GetParam(), 64, 1, {0, 0, 0}, window};
    const SequenceData data(shape, 150, 12, 0);
    AttentionOperators device;
    const std::vector<float> expected = attend_alone(device, shape, data, kWhole);
    for (const int64_t bad : {100, 127}) {  // within a stage, only values; and its last token
      SequenceData spoilt = data;
      for (int64_t d = 0; d < 64; ++d) {
        if (bad == 127) spoilt.k[static_cast<size_t>(bad * 64 + d)] = NAN;
        spoilt.v[static_cast<size_t>(bad * 64 + d)] = d % 2 == 0 ? NAN : INFINITY;
      }
      const std::vector<float> got = attend_alone(device, shape, spoilt, kWhole);
      const auto rows = [&](const std::vector<float>& y, int64_t first, int64_t end) {
        return std::vector<float>(y.begin() + first * shape.q_cols(),
                                  y.begin() + end * shape.q_cols());
      };
      EXPECT_EQ(first_difference(rows(got, 0, bad), rows(expected, 0, bad)), "") << bad;
      EXPECT_TRUE(std::isnan(got[static_cast<size_t>(bad * shape.q_cols())]));
      const int64_t first_after = bad + window;
      if (window == 0 || first_after >= 150) continue;
      EXPECT_EQ(first_difference(rows(got, first_after, 150), rows(expected, first_after, 150)),
                "");
    }
  }
}

// ------------------------------------------------------------------------------- conversion ----

/// One step of two sequences, its results converted by the kernel, against convert_rows of its f32
/// rows.
void expect_conversion(const AttentionShape& shape, ActivationForm form, int64_t group_size) {
  const WrittenContexts contexts(shape, 150, 23);
  const std::vector<SequenceRows> step = contexts.last(22, 1);
  constexpr int64_t kRows = 23;
  const int64_t cols = shape.q_cols();
  const auto reference = make_reference_operators();
  std::vector<float> y(static_cast<size_t>(kRows * cols));
  AttentionOperators({.target_blocks = 8})
      .attention(contexts.queries(), step, contexts.kv(), contexts.params(), {y.data(), cols});

  const int64_t bytes = activation_bytes(form, kRows, cols, group_size);
  const std::shared_ptr<std::byte> expected = reference->allocate(bytes);
  reference->convert_rows({y.data(), cols}, kRows,
                          make_activation_view(form, kRows, cols, group_size, expected.get()));
  const auto got = in_every_thread_order([&] {
    const std::shared_ptr<std::byte> memory = reference->allocate(bytes);
    AttentionOperators device({.target_blocks = 8});
    const ActivationView view = make_activation_view(form, kRows, cols, group_size, memory.get());
    for (int round = 0; round < 2; ++round) {  // the second finds counters as they were
      std::fill_n(view.codes, kRows * cols * activation_code_bytes(form), std::byte{0});
      device.attention_into(contexts.queries(), step, contexts.kv(), contexts.params(),
                            device_activation(view));
    }
    return std::vector<std::byte>(memory.get(), memory.get() + bytes);
  });
  EXPECT_EQ(got, std::vector<std::byte>(expected.get(), expected.get() + bytes))
      << "head_dim " << shape.head_dim << ", groups of " << group_size;
}

TEST_P(CudaAttention, ResultsAreConvertedAsConvertRowsDoes) {
  const AttentionShape four{GetParam(), 32, 2, {0, 0, 0, 0, 1, 1, 1, 1}, 0};
  expect_conversion(four, ActivationForm::kBf16, 0);
  expect_conversion(four, ActivationForm::kS8, 32);   // groups of a head,
  expect_conversion(four, ActivationForm::kS8, 128);  // of a KV head's queries,
  expect_conversion(four, ActivationForm::kS8, 256);  // of two KV heads'
  expect_conversion(four, ActivationForm::kE4m3, 32);
  expect_conversion(four, ActivationForm::kE4m3, 256);
  const AttentionShape many{GetParam(), 32, 1, std::vector<int32_t>(20, 0), 0};
  expect_conversion(many, ActivationForm::kS8, 128);  // heads of a token in several tiles
  const AttentionShape plain{GetParam(), 24, 2, {0, 0, 1, 1}, 0};
  expect_conversion(plain, ActivationForm::kS8, 8);  // no tiles
  expect_conversion(plain, ActivationForm::kS8, 48);
  expect_conversion(plain, ActivationForm::kE4m3, 48);
}

}  // namespace
}  // namespace phalanx::kernels::cuda
