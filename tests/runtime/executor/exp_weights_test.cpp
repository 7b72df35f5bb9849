// exp_weights.cpp against the C library, at its edges, and its fixed order of summation.
#include "runtime/executor/exp_weights.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace phalanx {
namespace {

TEST(ExpWeights, AgreesWithTheLibraryOnTheWholeRange) {
  double worst = 0.0;
  for (int i = 0; i <= 870'000; ++i) {
    const float x = static_cast<float>(-i) * 1e-4F;
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(static_cast<double>(exp_weight(x)) - exact) / exact);
  }
  EXPECT_LT(worst, 2e-7);
}

TEST(ExpWeights, EdgesAreDefined) {
  EXPECT_EQ(exp_weight(0.0F), 1.0F);
  EXPECT_EQ(exp_weight(-0.0F), 1.0F);
  EXPECT_GT(exp_weight(-87.0F), 0.0F);
  EXPECT_EQ(exp_weight(-87.01F), 0.0F);
  EXPECT_EQ(exp_weight(-std::numeric_limits<float>::infinity()), 0.0F);
  EXPECT_EQ(exp_weight(std::numeric_limits<float>::quiet_NaN()), 0.0F);
}

TEST(ExpWeights, SumMatchesANaiveSumForEveryLength) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0F, 4.0F);
  for (size_t size = 1; size < 200; ++size) {
    std::vector<float> logits(size);
    for (float& logit : logits) logit = normal(random);
    logits[size / 2] = std::numeric_limits<float>::quiet_NaN();
    double expected = 0.0;
    for (const float logit : logits)
      if (!std::isnan(logit)) expected += std::exp((static_cast<double>(logit) - 12.0) / 0.7);
    EXPECT_NEAR(exp_weight_sum(logits, 12.0F, 0.7F), expected, expected * 2e-6) << size;
  }
}

}  // namespace
}  // namespace phalanx
