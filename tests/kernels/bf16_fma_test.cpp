// The flushing multiply-add: hand-made cases of what is flushed and what is not. That it equals the
// processor's instruction is shown by linear_test, where the tiers meet the oracle.
#include "kernels/bf16_fma.h"

#include <cmath>

#include <gtest/gtest.h>

namespace phalanx::kernels {
namespace {

TEST(Bf16FmaTest, DenormalInputsCountAsZeroOfTheirSign) {
  EXPECT_EQ(fma_flush_denormals(FLT_MIN / 2, 4.0F, 1.0F), 1.0F);
  EXPECT_EQ(fma_flush_denormals(4.0F, FLT_MIN / 2, 1.0F), 1.0F);
  EXPECT_EQ(fma_flush_denormals(1.0F, FLT_MIN, FLT_MIN / 2), FLT_MIN);
  const float negative = fma_flush_denormals(-FLT_MIN / 2, 4.0F, -FLT_MIN / 2);
  EXPECT_EQ(negative, 0.0F);
  EXPECT_TRUE(std::signbit(negative));
}

TEST(Bf16FmaTest, DenormalResultsBecomeZeroOfTheirSign) {
  EXPECT_EQ(fma_flush_denormals(1.5F, FLT_MIN, -FLT_MIN), 0.0F);
  EXPECT_FALSE(std::signbit(fma_flush_denormals(1.5F, FLT_MIN, -FLT_MIN)));
  EXPECT_TRUE(std::signbit(fma_flush_denormals(-1.5F, FLT_MIN, FLT_MIN)));
  EXPECT_TRUE(std::signbit(fma_flush_denormals(-0x1p-100F, 0x1p-100F, 0.0F)));
}

TEST(Bf16FmaTest, TinyIsDecidedAfterRounding) {
  // FLT_MIN * (1 - 2^-25) is a tie that rounds up to FLT_MIN: kept. A little less stays below:
  // flushed.
  EXPECT_EQ(fma_flush_denormals(-0x1p-100F, 0x1p-51F, FLT_MIN), FLT_MIN);
  EXPECT_EQ(fma_flush_denormals(-0x1.02p-100F, 0x1p-51F, FLT_MIN), 0.0F);
  EXPECT_EQ(fma_flush_denormals(0x1p-100F, 0x1p-51F, -FLT_MIN), -FLT_MIN);
  EXPECT_EQ(fma_flush_denormals(0x1.02p-100F, 0x1p-51F, -FLT_MIN), 0.0F);
  EXPECT_TRUE(std::signbit(fma_flush_denormals(0x1.02p-100F, 0x1p-51F, -FLT_MIN)));
}

TEST(Bf16FmaTest, OrdinaryValuesAreFused) {
  EXPECT_EQ(fma_flush_denormals(3.0F, 5.0F, 7.0F), 22.0F);
  EXPECT_EQ(fma_flush_denormals(1.0F + 0x1p-7F, 1.0F + 0x1p-7F, -1.0F), 0x1p-6F + 0x1p-14F);
}

}  // namespace
}  // namespace phalanx::kernels
