// Attention of the CPU backend: equal to the oracle bit by bit in every tier, and a query's bits
// depend on nothing but its own context (law 1). Accuracy against a softmax in double.
#include "kernels/cpu/attention.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cpu_backend.h"
#include "runtime/base/check.h"
#include "runtime/base/dtype.h"
#include "tests/kernels/attention_world.h"
#include "tests/kernels/float_rows.h"

namespace phalanx::kernels {
namespace {

using test::first_difference;

constexpr int64_t kWhole = 1 << 20;

std::unique_ptr<Operators> backend(IsaTier tier, int num_threads = 1) {
  CpuBackendOptions options;
  options.isa_tier = tier;
  options.num_threads = num_threads;
  options.spin = false;
  return make_cpu_operators(options);
}
std::unique_ptr<Operators> best_backend(int num_threads = 1) {
  return backend(best_isa_tier(), num_threads);
}

std::vector<IsaTier> tiers() {
  std::vector<IsaTier> out;
  for (const IsaTier tier : kIsaTiers) {
    if (tier <= best_isa_tier()) out.push_back(tier);
  }
  return out;
}

class AttentionFormats : public ::testing::TestWithParam<KvFormat> {};

INSTANTIATE_TEST_SUITE_P(Kv, AttentionFormats,
                         ::testing::Values(KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8),
                         [](const auto& test) { return std::string(kv_format_name(test.param)); });

// ---------------------------------------------------------------------- against the oracle ----

TEST_P(AttentionFormats, EveryTierGivesTheOraclesBitsForEveryHeadDim) {
  const auto reference = make_reference_operators();
  for (const int64_t head_dim : {8, 16, 24, 32, 40, 64, 80, 96, 128, 200, 256}) {
    AttentionShape shape{GetParam(), head_dim, 2, {0, 0, 1, 1}, 0};
    for (const int64_t length : {1, 2, 33, 140}) {
      const SequenceData data(shape, length, 1, static_cast<int>(length));
      const std::vector<float> expected = attend_alone(*reference, shape, data, kWhole);
      for (const IsaTier tier : tiers()) {
        if (tier == IsaTier::kPortable && length * head_dim > 10000) continue;  // it is slow
        const auto cpu = backend(tier);
        EXPECT_EQ(first_difference(attend_alone(*cpu, shape, data, kWhole), expected), "")
            << isa_tier_name(tier) << " head_dim " << head_dim << " length " << length;
      }
    }
  }
}

TEST_P(AttentionFormats, EveryTierGivesTheOraclesBitsForEveryGrouping) {
  const auto reference = make_reference_operators();
  const std::vector<std::vector<int32_t>> maps = {
      {0},                          // one head
      {0, 1, 2},                    // no groups
      {0, 0, 0, 0, 0, 0, 0},        // seven heads on one
      {0, 0, 0, 1, 2, 2, 2, 2, 2},  // uneven groups
      {0, 2},                       // a KV head that no query reads
      std::vector<int32_t>(71, 0),  // more heads than a tile has pairs
  };
  for (const auto& map : maps) {
    AttentionShape shape{GetParam(), 32, 3, map, 0};
    const SequenceData data(shape, 70, 2, static_cast<int>(map.size()));
    const std::vector<float> expected = attend_alone(*reference, shape, data, kWhole);
    for (const IsaTier tier : tiers()) {
      const auto cpu = backend(tier);
      EXPECT_EQ(first_difference(attend_alone(*cpu, shape, data, kWhole), expected), "")
          << isa_tier_name(tier) << ", " << map.size() << " query heads, whole";
      EXPECT_EQ(first_difference(attend_alone(*cpu, shape, data, 1), expected), "")
          << isa_tier_name(tier) << ", " << map.size() << " query heads, one by one";
    }
  }
}

TEST_P(AttentionFormats, SlidingWindowsGiveTheOraclesBits) {
  const auto reference = make_reference_operators();
  for (const int64_t window : {1, 2, 31, 32, 33, 128, 129, 299, 1000}) {
    AttentionShape shape{GetParam(), 16, 1, {0, 0, 0}, window};
    const SequenceData data(shape, 300, 3, 0);
    const std::vector<float> expected = attend_alone(*reference, shape, data, kWhole);
    for (const IsaTier tier : tiers()) {
      if (tier == IsaTier::kPortable && window > 130) continue;
      const auto cpu = backend(tier);
      for (const int64_t chunk : {int64_t{1}, int64_t{50}, kWhole}) {
        EXPECT_EQ(first_difference(attend_alone(*cpu, shape, data, chunk), expected), "")
            << isa_tier_name(tier) << " window " << window << " chunk " << chunk;
      }
    }
  }
}

TEST_P(AttentionFormats, AWindowThatHoldsEverythingChangesNothing) {
  AttentionShape shape{GetParam(), 64, 1, {0, 0}, 0};
  const SequenceData data(shape, 280, 4, 0);
  const auto cpu = best_backend();
  const std::vector<float> open = attend_alone(*cpu, shape, data, kWhole);
  shape.sliding_window = 280;
  EXPECT_EQ(first_difference(attend_alone(*cpu, shape, data, kWhole), open), "");
}

// ------------------------------------------------------------------------------------ law 1 ----

TEST_P(AttentionFormats, ChunksDoNotMatter) {
  const auto cpu = best_backend();
  const auto portable = backend(IsaTier::kPortable);
  for (const int64_t window : {0, 200}) {
    AttentionShape shape{GetParam(), 64, 2, {0, 0, 0, 1, 1}, window};
    const SequenceData data(shape, 700, 5, 0);
    const std::vector<float> whole = attend_alone(*cpu, shape, data, kWhole);
    for (const int64_t chunk : {1, 7, 32, 64, 333}) {
      EXPECT_EQ(first_difference(attend_alone(*cpu, shape, data, chunk), whole), "")
          << "chunks of " << chunk << ", window " << window;
    }
  }
  AttentionShape shape{GetParam(), 16, 1, {0, 0, 0}, 0};
  const SequenceData data(shape, 300, 5, 1);
  const std::vector<float> whole = attend_alone(*portable, shape, data, kWhole);
  for (const int64_t chunk : {1, 7, 32, 64}) {
    EXPECT_EQ(first_difference(attend_alone(*portable, shape, data, chunk), whole), "")
        << "portable, chunks of " << chunk;
  }
}

TEST_P(AttentionFormats, CompanyAndThreadsDoNotMatter) {
  AttentionShape shape{GetParam(), 64, 2, {0, 0, 0, 0, 1, 1, 1, 1}, 0};
  std::vector<SequenceData> sequences;
  const std::vector<int64_t> lengths = {1,   2,   31, 32, 33,  64,  65,  100, 127,
                                        128, 129, 5,  7,  200, 257, 300, 513};
  for (size_t i = 0; i < lengths.size(); ++i) {
    sequences.emplace_back(shape, lengths[i], 6, static_cast<int>(i));
  }
  const auto one = best_backend(1);
  std::vector<std::vector<float>> alone;
  for (const SequenceData& data : sequences) {
    alone.push_back(attend_alone(*one, shape, data, kWhole));
  }
  for (const int num_threads : {1, 2, 3}) {
    const auto cpu = best_backend(num_threads);
    AttentionWorld world(*cpu, shape, sequences);
    // Random mixes of chunks and single rows until all are done.
    std::mt19937 random(static_cast<uint32_t>(num_threads));
    for (bool left = true; left;) {
      left = false;
      std::vector<std::pair<size_t, int64_t>> rows;
      for (size_t i = 0; i < sequences.size(); ++i) {
        const int64_t todo = world.length(i) - world.done(i);
        if (todo == 0) continue;
        left = true;
        if (random() % 4 == 0) continue;
        const int64_t wanted = random() % 2 == 0 ? 1 : 1 + static_cast<int64_t>(random() % 90);
        rows.emplace_back(i, std::min(todo, wanted));
      }
      if (!rows.empty()) world.step(rows);
    }
    for (size_t i = 0; i < sequences.size(); ++i) {
      EXPECT_EQ(first_difference(world.output(i), alone[i]), "")
          << num_threads << " threads, sequence of " << lengths[i];
    }
  }
}

TEST_P(AttentionFormats, CuttingALongContextOverThreadsDoesNotMatter) {
  // One decoding sequence and one KV head: only its context can be shared between threads.
  for (const int64_t head_dim : {8, 64}) {
    for (const int64_t window : {0, 900}) {
      AttentionShape shape{GetParam(), head_dim, 1, {0, 0, 0, 0}, window};
      const SequenceData data(shape, 1400, 7, static_cast<int>(head_dim));
      const auto run = [&](int num_threads) {
        const auto cpu = best_backend(num_threads);
        AttentionWorld world(*cpu, shape, {data});
        world.step({{0, 1244}});
        world.step({{0, 32}});  // leaves partial results behind in the scratch
        world.step({{0, 8}});   // rows that see one partition more than others, at either end
        world.step({{0, 1}});
        world.step({{0, 115}});
        return world.output(0);
      };
      const std::vector<float> alone = run(1);
      EXPECT_EQ(first_difference(run(2), alone), "") << "2 threads, window " << window;
      EXPECT_EQ(first_difference(run(3), alone), "") << "3 threads, window " << window;
    }
  }
}

TEST_P(AttentionFormats, WhatUnwrittenSlotsHoldDoesNotMatter) {
  AttentionShape shape{GetParam(), 40, 2, {0, 0, 1}, 0};
  const SequenceData data(shape, 190, 8, 0);
  for (const IsaTier tier : tiers()) {
    const auto cpu = backend(tier);
    for (const int64_t chunk : {int64_t{1}, int64_t{40}, kWhole}) {
      EXPECT_EQ(first_difference(attend_alone(*cpu, shape, data, chunk, PoolFill::kNans),
                                 attend_alone(*cpu, shape, data, chunk, PoolFill::kZeros)),
                "")
          << isa_tier_name(tier);
    }
  }
}

TEST_P(AttentionFormats, ReplicatedKvHeadsGiveTheSameAsSharedOnes) {
  AttentionShape shared{GetParam(), 32, 1, {0, 0, 0, 0}, 0};
  AttentionShape replicated{GetParam(), 32, 4, {0, 1, 2, 3}, 0};
  const SequenceData data(shared, 140, 9, 0);
  SequenceData copies = data;
  copies.k.clear();
  copies.v.clear();
  for (int64_t row = 0; row < 140; ++row) {
    for (int copy = 0; copy < 4; ++copy) {
      copies.k.insert(copies.k.end(), data.k.begin() + row * 32, data.k.begin() + row * 32 + 32);
      copies.v.insert(copies.v.end(), data.v.begin() + row * 32, data.v.begin() + row * 32 + 32);
    }
  }
  const auto cpu = best_backend();
  EXPECT_EQ(first_difference(attend_alone(*cpu, replicated, copies, kWhole),
                             attend_alone(*cpu, shared, data, kWhole)),
            "");
}

// --------------------------------------------------------------------------------- accuracy ----

/// Largest |error| of a row relative to the row's largest |value|.
double relative_error(const AttentionShape& shape, const AttentionWorld& world) {
  const SequenceData& data = world.data(0);
  const int64_t length = world.length(0);
  double worst = 0;
  for (int64_t p = 0; p < length; ++p) {
    const int64_t oldest =
        shape.sliding_window > 0 ? std::max<int64_t>(0, p - shape.sliding_window + 1) : 0;
    for (int64_t head = 0; head < shape.num_query_heads(); ++head) {
      const int64_t kv_head = shape.kv_head_of_query[static_cast<size_t>(head)];
      const int64_t dims = shape.head_dim;
      const float* q = data.q.data() + p * shape.q_cols() + head * dims;
      std::vector<double> scores;
      double top = -INFINITY;
      for (int64_t t = oldest; t <= p; ++t) {
        const float* k = data.k.data() + t * shape.kv_cols() + kv_head * dims;
        double score = 0;
        for (int64_t d = 0; d < dims; ++d) score += static_cast<double>(q[d]) * k[d];
        scores.push_back(score * static_cast<double>(world.scale()));
        top = std::max(top, scores.back());
      }
      double sum = 0;
      std::vector<double> y(static_cast<size_t>(dims), 0.0);
      for (int64_t t = oldest; t <= p; ++t) {
        const double weight = std::exp(scores[static_cast<size_t>(t - oldest)] - top);
        sum += weight;
        const float* v = data.v.data() + t * shape.kv_cols() + kv_head * dims;
        for (int64_t d = 0; d < dims; ++d) y[static_cast<size_t>(d)] += weight * v[d];
      }
      const float* got = world.output(0).data() + p * shape.q_cols() + head * dims;
      double largest = 0;
      double error = 0;
      for (int64_t d = 0; d < dims; ++d) {
        const double exact = y[static_cast<size_t>(d)] / sum;
        largest = std::max(largest, std::fabs(exact));
        error = std::max(error, std::fabs(exact - static_cast<double>(got[d])));
      }
      worst = std::max(worst, error / largest);
      if (std::isnan(error)) return error;
    }
  }
  return worst;
}

TEST(AttentionAccuracy, F32IsWithin1em5OfASoftmaxInDouble) {
  const auto cpu = best_backend();
  for (const int64_t head_dim : {8, 64, 128, 256}) {
    for (const float spread : {0.3F, 1.0F, 2.0F}) {
      AttentionShape shape{KvFormat::kF32, head_dim, 1, {0, 0}, 0};
      AttentionWorld world(*cpu, shape, {SequenceData(shape, 500, 11, 0, spread)});
      world.finish(0, kWhole);
      EXPECT_LT(relative_error(shape, world), 1e-5) << head_dim << " spread " << spread;
    }
  }
}

TEST(AttentionAccuracy, QuantizedKvIsNear) {
  const auto cpu = best_backend();
  for (const auto& [format, bound] : {std::pair{KvFormat::kBf16, 0.03}, {KvFormat::kInt8, 0.02}}) {
    AttentionShape shape{format, 64, 1, {0, 0}, 0};
    AttentionWorld world(*cpu, shape, {SequenceData(shape, 300, 12, 0)});
    world.finish(0, kWhole);
    EXPECT_LT(relative_error(shape, world), bound) << kv_format_name(format);
  }
}

// --------------------------------------------------------------------------------- extremes ----

TEST_P(AttentionFormats, HugeScoresPickTheLargestAndStayFinite) {
  AttentionShape shape{GetParam(), 16, 1, {0}, 0};
  SequenceData data(shape, 200, 13, 0, 1e15F);
  for (size_t i = 0; i < data.v.size(); ++i) data.v[i] = static_cast<float>(i % 97) - 40.0F;
  const auto reference = make_reference_operators();
  const std::vector<float> expected = attend_alone(*reference, shape, data, kWhole);
  for (const float x : expected) ASSERT_TRUE(std::isfinite(x));
  for (const IsaTier tier : tiers()) {
    const auto cpu = backend(tier);
    EXPECT_EQ(first_difference(attend_alone(*cpu, shape, data, kWhole), expected), "");
  }
}

TEST_P(AttentionFormats, EqualScoresAverage) {
  AttentionShape shape{GetParam(), 8, 1, {0}, 0};
  SequenceData data(shape, 256, 14, 0);
  std::fill(data.q.begin(), data.q.end(), 0.0F);
  for (size_t i = 0; i < data.v.size(); ++i) data.v[i] = i / 8 % 2 == 0 ? 1.0F : 3.0F;
  const auto cpu = best_backend();
  const std::vector<float> y = attend_alone(*cpu, shape, data, kWhole);
  // 256 weights of 1: exact, but for int8's two scales (3 and 1 are whole steps of them).
  const float error = GetParam() == KvFormat::kInt8 ? 0x1p-20F : 0.0F;
  EXPECT_NEAR(y[255 * 8], 2.0F, error);
  EXPECT_NEAR(y[127 * 8 + 7], 2.0F, error);
}

TEST_P(AttentionFormats, ASingleTokenGivesItsOwnValue) {
  AttentionShape shape{GetParam(), 24, 1, {0, 0}, 0};
  SequenceData data(shape, 1, 15, 0);
  for (float& x : data.v) x = x > 0 ? 127.0F : -64.0F;  // what every format keeps exactly
  data.v[0] = 127.0F;
  const auto cpu = best_backend();
  const std::vector<float> y = attend_alone(*cpu, shape, data, kWhole);
  for (size_t d = 0; d < 24; ++d) {
    EXPECT_EQ(y[d], data.v[d]);
    EXPECT_EQ(y[24 + d], data.v[d]);
  }
}

TEST(AttentionInt8, TinyRowsBecomeZerosAndNansStayVisible) {
  const auto reference = make_reference_operators();
  AttentionShape shape{KvFormat::kInt8, 8, 1, {0}, 0};
  SequenceData data(shape, 3, 16, 0);
  for (int d = 0; d < 8; ++d) data.v[static_cast<size_t>(d)] = 1e-40F;
  for (const IsaTier tier : tiers()) {
    const auto cpu = backend(tier);
    const std::vector<float> y = attend_alone(*cpu, shape, data, 1);
    for (int d = 0; d < 8; ++d) EXPECT_EQ(y[static_cast<size_t>(d)], 0.0F);
    EXPECT_EQ(first_difference(attend_alone(*reference, shape, data, 1), y), "");
    SequenceData bad = data;
    bad.v[8] = NAN;  // of token 1: seen by tokens 1 and 2 only
    const std::vector<float> z = attend_alone(*cpu, shape, bad, 1);
    EXPECT_EQ(z[0], 0.0F);
    EXPECT_TRUE(std::isnan(z[8]));
    EXPECT_TRUE(std::isnan(z[16]));
  }
}

// The largest digits and codes, of one sign: sums of byte products come near what 16 bits hold.
TEST(AttentionInt8, TheLargestProductsDoNotSaturate) {
  const auto reference = make_reference_operators();
  AttentionShape shape{KvFormat::kInt8, 256, 1, {0}, 0};
  for (const float sign : {1.0F, -1.0F}) {
    SequenceData data(shape, 130, 17, 0);
    std::fill(data.q.begin(), data.q.end(), 1.0F);
    std::fill(data.k.begin(), data.k.end(), sign);
    std::fill(data.v.begin(), data.v.end(), sign);
    const std::vector<float> expected = attend_alone(*reference, shape, data, kWhole);
    for (const float y : expected) ASSERT_NEAR(y, sign, 1e-6F);
    for (const IsaTier tier : tiers()) {
      const auto cpu = backend(tier);
      EXPECT_EQ(first_difference(attend_alone(*cpu, shape, data, kWhole), expected), "");
    }
  }
}

TEST(AttentionInt8, QueriesThatAreNotFiniteStayVisible) {
  const auto reference = make_reference_operators();
  AttentionShape shape{KvFormat::kInt8, 16, 1, {0}, 0};
  for (const float bad : {NAN, INFINITY}) {
    SequenceData data(shape, 5, 18, 0);
    data.q[3 * 16] = bad;  // of token 3 alone
    for (const IsaTier tier : tiers()) {
      const auto cpu = backend(tier);
      const std::vector<float> y = attend_alone(*cpu, shape, data, kWhole);
      EXPECT_TRUE(std::isfinite(y[2 * 16]));
      EXPECT_TRUE(std::isnan(y[3 * 16]));
      EXPECT_TRUE(std::isfinite(y[4 * 16]));
    }
    EXPECT_TRUE(std::isnan(attend_alone(*reference, shape, data, kWhole)[3 * 16]));
  }
}

// ----------------------------------------------------------------------------------- errors ----

TEST(AttentionErrors, NamesWhatIsWrong) {
  const auto cpu = best_backend();
  const int64_t bytes = 4 * kv_block_bytes(KvFormat::kF32, 16);
  const auto pool = cpu->allocate(bytes);
  KvLayerView kv{KvFormat::kF32, pool.get(), 4, 1, 16};
  std::vector<float> rows(64, 0.5F);
  std::vector<int32_t> table = {1, 4};
  const std::vector<int32_t> heads = {0};
  AttentionParams params{1, heads.data(), 1.0F, 0};
  SequenceRows sequence{0, 1, 0, table.data()};
  const auto attend = [&] {
    cpu->attention({rows.data(), 16}, {&sequence, 1}, kv, params, {rows.data() + 32, 16});
  };
  EXPECT_NO_THROW(attend());
  sequence.first_position = 32;  // block 4 of a pool of 4
  EXPECT_THAT(attend, ::testing::ThrowsMessage<InternalError>(
                          ::testing::HasSubstr("block_table[1] is 4, the pool has 4 blocks")));
  EXPECT_THROW(cpu->write_kv({rows.data(), 16}, {rows.data(), 16}, {&sequence, 1}, kv),
               InternalError);
  sequence.first_position = 0;
  const std::vector<int32_t> descending = {0, 1, 0};
  params = {3, descending.data(), 1.0F, 0};
  EXPECT_THROW(attend(), InternalError);
  params = {1, heads.data(), 1.0F, -1};
  EXPECT_THROW(attend(), InternalError);
  params.sliding_window = 0;
  kv.head_dim = 12;
  EXPECT_THROW(attend(), InternalError);
  kv.head_dim = 264;
  EXPECT_THROW(attend(), InternalError);
  kv.head_dim = 16;
  kv.data += 4;
  EXPECT_THROW(attend(), InternalError);
}

}  // namespace
}  // namespace phalanx::kernels
