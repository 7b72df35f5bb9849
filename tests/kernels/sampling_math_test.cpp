// sampling_math.h and philox.h: against the C library, at their edges, and known vectors.
#include "kernels/sampling_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "kernels/philox.h"

namespace phalanx::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(Philox, KnownAnswersOfRandom123) {
  EXPECT_EQ(philox4x32_10({{0, 0, 0, 0}}, 0, 0),
            (PhiloxWords{{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}));
  EXPECT_EQ(philox4x32_10({{~0U, ~0U, ~0U, ~0U}}, ~0U, ~0U),
            (PhiloxWords{{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}));
  EXPECT_EQ(
      philox4x32_10({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
      (PhiloxWords{{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}));
  EXPECT_EQ(counter_bits(0, 0), 0x6627e8U);
}

TEST(SamplingMath, WeightsAgreeWithTheLibraryOnTheWholeRange) {
  double worst = 0.0;
  for (int i = 0; i <= 870'000; ++i) {
    const float x = static_cast<float>(-i) * 1e-4F;
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(static_cast<double>(exp_weight(x)) - exact) / exact);
  }
  EXPECT_LT(worst, 2e-7);
}

TEST(SamplingMath, EdgesOfWeightsAreDefined) {
  EXPECT_EQ(exp_weight(0.0F), 1.0F);
  EXPECT_EQ(exp_weight(-0.0F), 1.0F);
  EXPECT_GT(exp_weight(-87.0F), 0.0F);
  EXPECT_EQ(exp_weight(-87.01F), 0.0F);
  EXPECT_EQ(exp_weight(-kInfinity), 0.0F);
  EXPECT_EQ(exp_weight(kNan), 0.0F);
  EXPECT_EQ(unit_weight(0.0F), uint64_t{1} << 43);
  EXPECT_EQ(unit_weight(-kInfinity), 0U);
  EXPECT_EQ(unit_weight(kNan), 0U);
  // Every weight above the floor has a unit, none below.
  for (float x = kLowestScaled; x < -29.0F; x = std::nextafter(x, 0.0F) + 1e-5F)
    ASSERT_GE(unit_weight(x), 1U) << x;
  EXPECT_EQ(unit_weight(std::nextafter(kLowestScaled, -kInfinity)), 0U);
}

TEST(SamplingMath, UnitsAreTheNearest) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> scaled(-30.0F, 0.0F);
  for (int i = 0; i < 100'000; ++i) {
    const float x = scaled(random);
    const auto weight = static_cast<double>(exp_weight(x));
    ASSERT_EQ(static_cast<double>(unit_weight(x)), std::nearbyint(weight / kWeightUnit)) << x;
  }
}

TEST(SamplingMath, LogarithmIsWithinItsBoundOfTheLibrarys) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> exponent(-148.0, 20.0);
  std::uniform_real_distribution<double> near_one(0.4, 2.5);
  for (int i = 0; i < 400'000; ++i) {
    const double x = i % 2 == 0 ? std::exp2(exponent(random)) : near_one(random);
    const double exact = std::log(x);
    ASSERT_LE(std::abs(exact_order_log(x) - exact), 0x1p-51 * std::max(1.0, std::abs(exact))) << x;
  }
  EXPECT_EQ(exact_order_log(1.0), 0.0);
  EXPECT_EQ(log_of_units(uint64_t{1} << 43), 0.0);
}

TEST(SamplingMath, KeysOrderAsLogitsDoAndGoBack) {
  const float ascending[] = {-kInfinity, -kLargestFloat, -2.0F, -1.0F, -0x1p-149F,    0.0F,
                             0x1p-149F,  1.0F,           1.5F,  3e38F, kLargestFloat, kInfinity};
  for (size_t i = 0; i < std::size(ascending); ++i) {
    EXPECT_EQ(logit_of_key(descending_key(ascending[i])), ascending[i]);
    if (i > 0) {
      EXPECT_LT(descending_key(ascending[i]), descending_key(ascending[i - 1])) << i;
    }
  }
  EXPECT_EQ(descending_key(-0.0F), descending_key(0.0F));
}

TEST(SamplingMath, SharesOfASumAreExactOrRoundedDown) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 100'000; ++i) {
    const uint64_t sum = (random() >> random() % 63 >> 1) + 1;
    const auto uniform = static_cast<uint32_t>(random() >> 40);
    // In two halves of the product, as by hand.
    const uint64_t low = (sum & 0xffffffffU) * uniform;
    const uint64_t high = (sum >> 32) * uniform + (low >> 32);
    ASSERT_EQ(draw_units(sum, uniform), (high << 8) + ((low & 0xffffffffU) >> 24));
    ASSERT_LT(draw_units(sum, uniform), sum);
    ASSERT_LE(nucleus_units(1.0F - 0x1p-24F, sum), sum);
  }
  EXPECT_EQ(nucleus_units(0x1p-149F, 1U << 20), 1U);
  EXPECT_EQ(nucleus_units(0.5F, 1000), 500U);
}

TEST(SamplingMath, MinPIsAFloorOfScaledLogits) {
  EXPECT_EQ(min_p_floor(1.0F), 0.0F);
  EXPECT_LT(min_p_floor(0.0F), -1e38F);
  EXPECT_NEAR(min_p_floor(0.1F), std::log(0.1F), 1e-6F);
  EXPECT_NEAR(min_p_floor(0x1p-149F), -103.279F, 1e-3F);
}

}  // namespace
}  // namespace phalanx::kernels
