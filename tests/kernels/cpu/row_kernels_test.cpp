// The tiers' row kernels: equal bits in every tier and at every length, and the accuracy of exp.
#include "kernels/cpu/row_kernels.h"

#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/operators.h"
#include "kernels/reference/row_reference.h"

namespace phalanx::kernels::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<IsaTier> tiers() {
  std::vector<IsaTier> out;
  for (const IsaTier tier : kIsaTiers) {
    if (tier <= best_isa_tier()) out.push_back(tier);
  }
  return out;
}

uint32_t bits(float x) { return std::bit_cast<uint32_t>(x); }

std::vector<float> random_floats(int64_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 3.0F);
  std::vector<float> out(static_cast<size_t>(size));
  for (float& x : out) x = normal(random);
  return out;
}

TEST(Exp, EdgesAreExact) {
  const std::vector<float> x = {0.0F,  -0.0F,          kInfinity, -kInfinity, 0x1.62e430p+6F,
                                1e30F, -0x1.5d58ap+6F, -1e30F,    -100.0F,    FLT_TRUE_MIN};
  const std::vector<float> expected = {1.0F,      1.0F, kInfinity, 0.0F, kInfinity,
                                       kInfinity, 0.0F, 0.0F,      0.0F, 1.0F};
  for (const IsaTier tier : tiers()) {
    std::vector<float> y(x.size());
    row_kernels(tier).exp(x.data(), static_cast<int64_t>(x.size()), y.data());
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(bits(y[i]), bits(expected[i])) << isa_tier_name(tier) << " exp(" << x[i] << ")";
      EXPECT_EQ(bits(reference::exp(x[i])), bits(expected[i])) << "reference exp(" << x[i] << ")";
    }
    const float nan = std::numeric_limits<float>::quiet_NaN();
    row_kernels(tier).exp(&nan, 1, y.data());
    EXPECT_TRUE(std::isnan(y[0]));
    // The last finite and the last normal result.
    const std::vector<float> last = {0x1.62e42ep+6F, -0x1.5d589ep+6F};
    row_kernels(tier).exp(last.data(), 2, y.data());
    EXPECT_TRUE(std::isfinite(y[0]) && y[0] > 3.4e38F);
    EXPECT_TRUE(std::isnormal(y[1]) && y[1] < 1.2e-38F);
  }
}

TEST(Exp, IsWithinOneUlpAndEqualInEveryTier) {
  // Every 509th bit pattern: 8 million numbers, all exponents and signs.
  constexpr int64_t kBatch = 4096;
  std::vector<float> x(kBatch), y(kBatch), other(kBatch);
  double worst = 0;
  for (uint64_t pattern = 0; pattern < (uint64_t{1} << 32);) {
    for (float& value : x) {
      value = std::bit_cast<float>(static_cast<uint32_t>(pattern));
      pattern += 509;
    }
    row_kernels(best_isa_tier()).exp(x.data(), kBatch, y.data());
    for (const IsaTier tier : tiers()) {
      if (tier == IsaTier::kPortable && pattern % 8 != 0) continue;
      row_kernels(tier).exp(x.data(), kBatch, other.data());
      for (size_t i = 0; i < x.size(); ++i) {
        if (std::isnan(x[i])) continue;
        ASSERT_EQ(bits(other[i]), bits(y[i])) << isa_tier_name(tier) << " exp(" << x[i] << ")";
      }
    }
    for (size_t i = 0; i < x.size(); ++i) {
      if (!(x[i] > -0x1.5d58ap+6F) || !(x[i] <= 0x1.62e42ep+6F) || std::fabs(x[i]) < 1e-9F) {
        continue;
      }
      const double exact = std::exp(static_cast<double>(x[i]));
      const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
      worst = std::max(worst, std::fabs(static_cast<double>(y[i]) - exact) / ulp);
    }
  }
  EXPECT_LT(worst, 0.9);
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST(Exp, AgreesWithTheOracle) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-90.0F, 90.0F);
  for (int i = 0; i < 20000; ++i) {
    const float x = uniform(random);
    float y = 0;
    row_kernels(best_isa_tier()).exp(&x, 1, &y);
    ASSERT_EQ(bits(y), bits(reference::exp(x))) << std::hexfloat << x;
  }
}

TEST(SumOfSquares, FollowsTheSixteenLaneOrderAtEveryLength) {
  for (int64_t size = 1; size <= 70; ++size) {
    const std::vector<float> x = random_floats(size, static_cast<uint32_t>(size));
    const float expected = reference::sum_of_squares(x.data(), size);
    EXPECT_EQ(bits(lane_sum16_of_squares(x.data(), size)), bits(expected)) << size;
    for (const IsaTier tier : tiers()) {
      EXPECT_EQ(bits(row_kernels(tier).sum_of_squares(x.data(), size)), bits(expected))
          << isa_tier_name(tier) << " " << size;
    }
  }
}

TEST(SumOfSquares, OrderIsNotThePlainOne) {
  // Each 1 is lost when added to 2^24; lanes 1 and 3 meet before they meet lane 0.
  std::vector<float> x(17, 0.0F);
  x[0] = 4096.0F;
  x[1] = 1.0F;
  x[3] = 1.0F;
  EXPECT_EQ(lane_sum16_of_squares(x.data(), 17), 16777218.0F);
}

/// Kernels must not touch memory beyond their row: rows end where a guard begins.
TEST(RowKernels, LeaveTheirNeighboursAlone) {
  for (const IsaTier tier : tiers()) {
    const RowKernels& kernels = row_kernels(tier);
    for (int64_t size = 1; size <= 40; ++size) {
      const std::vector<float> x = random_floats(size, 3);
      std::vector<float> y(static_cast<size_t>(size) + 1, 42.0F);
      kernels.silu_mul(x.data(), x.data(), size, y.data());
      EXPECT_EQ(y.back(), 42.0F);
      kernels.rms_norm(x.data(), x.data(), 1e-5F, size, y.data());
      EXPECT_EQ(y.back(), 42.0F);
      kernels.add(y.data(), x.data(), x.data(), size);
      EXPECT_EQ(y.back(), 42.0F);
      if (size % 2 == 0) {
        kernels.rope(y.data(), 1, size, size, x.data(), x.data());
        EXPECT_EQ(y.back(), 42.0F);
      }
    }
  }
}

}  // namespace
}  // namespace phalanx::kernels::cpu
