// exp_weights.cpp: the sum against the C library's exp for every length, and that no order shows.
#include "runtime/executor/exp_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace phalanx {
namespace {

TEST(ExpWeights, SumMatchesANaiveSumForEveryLength) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0F, 4.0F);
  for (size_t size = 2; size < 200; ++size) {
    std::vector<float> logits(size);
    for (float& logit : logits) logit = normal(random);
    logits[size / 2] = std::numeric_limits<float>::quiet_NaN();
    float max = logits[0];
    for (const float logit : logits) max = logit > max ? logit : max;
    double expected = 0.0;
    for (const float logit : logits)
      if (!std::isnan(logit))
        expected += std::exp((static_cast<double>(logit) - static_cast<double>(max)) / 0.7);
    const auto sum = static_cast<double>(exp_weight_sum(logits, max, 0.7F)) * kernels::kWeightUnit;
    EXPECT_NEAR(sum, expected, expected * 2e-6) << size;
  }
}

TEST(ExpWeights, SumIsThatOfTheUnitsInAnyOrder) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(-9.0F, 6.0F);
  for (size_t size = 1; size < 300; ++size) {
    std::vector<float> logits(size);
    for (float& logit : logits) logit = std::min(0.0F, normal(random));
    const uint64_t sum = exp_weight_sum(logits, 0.0F, 0.5F);
    uint64_t expected = 0;
    for (const float logit : logits)
      expected += kernels::unit_weight(kernels::scaled_logit(logit, 0.0F, 0.5F));
    ASSERT_EQ(sum, expected);
    std::shuffle(logits.begin(), logits.end(), random);
    ASSERT_EQ(exp_weight_sum(logits, 0.0F, 0.5F), sum);
  }
}

TEST(ExpWeights, TheLargestRowDoesNotOverflow) {
  const std::vector<float> logits(kernels::kMaxSampledVocab, 3.0F);
  EXPECT_EQ(exp_weight_sum(logits, 3.0F, 1.0F), uint64_t{1} << 63);
}

}  // namespace
}  // namespace phalanx
