// Activation views, and convert_rows in every tier against the scalar oracle, by bits.
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/linear.h"
#include "kernels/reference/linear_reference.h"
#include "runtime/base/check.h"
#include "tests/kernels/stored_matrix.h"

namespace phalanx::kernels {
namespace {

using test::OwnedActivation;
using test::random_floats;

std::vector<std::byte> content(const OwnedActivation& rows, int64_t num_rows) {
  const ActivationView& view = rows.view;
  const int64_t bytes = activation_bytes(view.form, num_rows, view.num_cols, view.group_size);
  return {rows.memory.get(), rows.memory.get() + bytes};
}

void expect_tiers_match_oracle(ActivationForm form, const std::vector<float>& x, int64_t num_rows,
                               int64_t num_cols, int64_t group_size, int64_t stride) {
  OwnedActivation expected(form, num_rows, num_cols, group_size);
  reference::convert_rows({x.data(), stride}, num_rows, expected.view);
  for (IsaTier tier : kIsaTiers) {
    if (tier > best_isa_tier()) continue;
    for (const int64_t cut : {int64_t{0}, num_rows / 3}) {
      OwnedActivation actual(form, num_rows, num_cols, group_size);
      cpu::convert_rows({x.data(), stride}, cut, num_rows, actual.view, tier);
      cpu::convert_rows({x.data(), stride}, 0, cut, actual.view, tier);
      ASSERT_EQ(content(actual, num_rows), content(expected, num_rows))
          << isa_tier_name(tier) << " K=" << num_cols << " G=" << group_size << " R=" << num_rows;
    }
  }
}

TEST(ActivationTest, ViewPartsAreAlignedAndInside) {
  for (ActivationForm form :
       {ActivationForm::kF32, ActivationForm::kBf16, ActivationForm::kS8, ActivationForm::kE4m3}) {
    const OwnedActivation rows(form, 3, 72, is_quantized(form) ? 8 : 0);
    const int64_t bytes = activation_bytes(form, 3, 72, 8);
    EXPECT_EQ(bytes % 64, 0);
    EXPECT_EQ(rows.view.codes, rows.memory.get());
    if (!is_quantized(form)) {
      EXPECT_EQ(rows.view.scales, nullptr);
      continue;
    }
    const auto* scales = reinterpret_cast<const std::byte*>(rows.view.scales);
    const auto* sums = reinterpret_cast<const std::byte*>(rows.view.sums);
    EXPECT_EQ((scales - rows.memory.get()) % 64, 0);
    EXPECT_GE(scales - rows.memory.get(), 3 * 72);
    if (form == ActivationForm::kE4m3) {
      EXPECT_EQ(sums, nullptr);
      EXPECT_LE(scales + 3 * 9 * 4, rows.memory.get() + bytes);
      continue;
    }
    EXPECT_GE(sums - scales, 3 * 9 * 4);
    EXPECT_LE(sums + 3 * 9 * 4, rows.memory.get() + bytes);
  }
}

TEST(ActivationTest, BadShapesAreInternalErrors) {
  EXPECT_THROW(activation_bytes(ActivationForm::kS8, 1, 72, 0), InternalError);
  EXPECT_THROW(activation_bytes(ActivationForm::kS8, 1, 72, 16), InternalError);
  alignas(64) std::byte memory[256];
  EXPECT_THROW(make_activation_view(ActivationForm::kF32, 1, 4, 0, memory + 4), InternalError);
}

TEST(ActivationTest, FormatsHaveNamesAndForms) {
  EXPECT_STREQ(weight_format_name(WeightFormat::kW4), "w4");
  EXPECT_STREQ(weight_format_name(WeightFormat::kFp8), "fp8");
  EXPECT_EQ(activation_form(WeightFormat::kFp8), ActivationForm::kE4m3);
  EXPECT_EQ(activation_form(WeightFormat::kW4), ActivationForm::kS8);
  EXPECT_EQ(activation_form(WeightFormat::kW8), ActivationForm::kS8);
  EXPECT_EQ(activation_form(WeightFormat::kBf16), ActivationForm::kBf16);
  EXPECT_EQ(activation_form(WeightFormat::kF32), ActivationForm::kF32);
}

TEST(ConvertRowsTest, RandomRowsMatchTheOracle) {
  for (int64_t num_rows : {1, 2, 7, 40}) {
    for (int64_t num_cols : {1, 7, 8, 15, 16, 17, 33, 1000}) {
      const auto x = random_floats(static_cast<size_t>(num_rows * (num_cols + 3)), 1);
      for (ActivationForm form : {ActivationForm::kF32, ActivationForm::kBf16})
        expect_tiers_match_oracle(form, x, num_rows, num_cols, 0, num_cols + 3);
    }
    for (int64_t group_size : {8, 24, 32, 64, 128, 1000})
      for (int64_t num_groups : {1, 2, 5}) {
        const int64_t num_cols = group_size * num_groups;
        const auto x = random_floats(static_cast<size_t>(num_rows * (num_cols + 3)), 1);
        for (ActivationForm form : {ActivationForm::kS8, ActivationForm::kE4m3})
          expect_tiers_match_oracle(form, x, num_rows, num_cols, group_size, num_cols + 3);
      }
  }
}

TEST(ConvertRowsTest, RandomBitPatternsMatchTheOracle) {
  std::mt19937 random(3);
  std::vector<float> x(16 * 1024);
  for (float& value : x) value = std::bit_cast<float>(static_cast<uint32_t>(random()));
  // NaN codes and scales are part of the contract, so they compare too.
  for (ActivationForm form : {ActivationForm::kF32, ActivationForm::kBf16})
    expect_tiers_match_oracle(form, x, 16, 1024, 0, 1024);
  constexpr ActivationForm kQuantized[] = {ActivationForm::kS8, ActivationForm::kE4m3};
  for (ActivationForm form : kQuantized)
    for (int64_t group_size : {8, 64})
      expect_tiers_match_oracle(form, x, 16, 1024, group_size, 1024);
  // Without NaN and infinity: the whole range of finite magnitudes, denormals too.
  for (float& value : x)
    if (!std::isfinite(value)) value = FLT_MAX;
  for (ActivationForm form : kQuantized)
    for (int64_t group_size : {8, 64})
      expect_tiers_match_oracle(form, x, 16, 1024, group_size, 1024);
}

TEST(ConvertRowsTest, ExtremeGroupsMatchTheOracle) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float threshold = FLT_MIN * 127.0F;  // where the scale stops being zero
  const float e4m3_threshold = FLT_MIN * 448.0F;
  const std::vector<std::vector<float>> groups = {
      {0, 0, 0, 0, 0, 0, 0, 0},
      {-0.0F, 0, -0.0F, 0, 0, 0, 0, -0.0F},
      {FLT_MAX, -FLT_MAX, 1, 0, FLT_MAX / 2, -FLT_MAX / 127, FLT_MAX / 254, 3},
      {FLT_TRUE_MIN, 0, -FLT_TRUE_MIN, 0, 0, 0, 0, 0},
      {FLT_MIN, -FLT_MIN, 0, 0, 0, 0, 0, 0},
      {threshold, -threshold / 2, 0, FLT_MIN, 0, 0, 0, 0},
      {std::nextafter(threshold, 0.0F), threshold / 3, 0, 0, 0, 0, 0, 0},
      {e4m3_threshold, -e4m3_threshold / 2, 0, FLT_MIN, 0, 0, 0, 0},
      {std::nextafter(e4m3_threshold, 0.0F), -threshold, 0, 0, 0, 0, 0, 0},
      {127, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -2.5F, -127},  // ties go to even
      {448, 0x1p-10F, -0x1p-10F, 0x1.8p-9F, -0x1.8p-10F, 0x1.fp-7F, 17, -19},
      {-448, 0x1p-6F, 0x1.fffffep-7F, 0x1.1p-6F, 0x1.3p-6F, -0x1p-30F, 432, -416},
      {254, 1, 3, 5, -1, -3, -5, 253},
      {1e-20F, 1e20F, -1e20F, 1, -1, 0, 0, 0},
      {nan, 1, 2, 3, 4, 5, 6, 7},
      {1, 2, 3, 4, 5, 6, 7, -nan},
      {inf, 1, 2, 3, -4, 5, 0, 7},
      {-inf, inf, 0, 0, 0, 0, 0, nan}};
  std::vector<float> x;
  for (const auto& group : groups) x.insert(x.end(), group.begin(), group.end());
  for (ActivationForm form : {ActivationForm::kS8, ActivationForm::kE4m3})
    expect_tiers_match_oracle(form, x, 1, static_cast<int64_t>(x.size()), 8,
                              static_cast<int64_t>(x.size()));
  expect_tiers_match_oracle(ActivationForm::kBf16, x, 1, static_cast<int64_t>(x.size()), 0,
                            static_cast<int64_t>(x.size()));
}

TEST(ConvertRowsTest, CodesAreWhatTheContractSays) {
  const std::vector<float> x = {127, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -2.5F, -127,
                                0,   0,    0,    0,    0,     0,     0,     0};
  OwnedActivation out(ActivationForm::kS8, 1, 16, 8);
  cpu::convert_rows({x.data(), 16}, 0, 1, out.view, best_isa_tier());
  const std::vector<int> expected = {127, 0, 2, 2, 0, -2, -2, -127};
  for (size_t k = 0; k < 8; ++k)
    EXPECT_EQ(static_cast<int8_t>(out.view.codes[k]), expected[k]) << k;
  EXPECT_EQ(out.view.scales[0], 1.0F);
  EXPECT_EQ(out.view.sums[0], 0);
  EXPECT_EQ(out.view.scales[1], 0.0F);
  EXPECT_EQ(out.view.sums[1], 0);
}

TEST(ConvertRowsTest, E4m3CodesAreWhatTheContractSays) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  // The scale is 2: twice what the codes say.
  const std::vector<float> x = {896, -896,    2,  -0.5F, 0x1p-8F, 0x1p-9F, -0x1p-9F, 34,
                                0,   -1e-37F, 0,  0,     0,       0,       0,        0,
                                1,   nan,     -2, 0,     0,       0,       0,        0};
  OwnedActivation out(ActivationForm::kE4m3, 1, 24, 8);
  cpu::convert_rows({x.data(), 24}, 0, 1, out.view, best_isa_tier());
  const std::vector<int> expected = {0x7e, 0xfe, 0x38, 0xa8, 1, 0, 0x80, 0x58};  // 17: a tie
  for (size_t k = 0; k < 8; ++k)
    EXPECT_EQ(std::to_integer<int>(out.view.codes[k]), expected[k]) << k;
  EXPECT_EQ(out.view.scales[0], 2.0F);
  EXPECT_EQ(out.view.scales[1], 0.0F);
  for (size_t k = 8; k < 16; ++k) EXPECT_EQ(std::to_integer<int>(out.view.codes[k]), 0) << k;
  EXPECT_TRUE(std::isnan(out.view.scales[2]));
  for (size_t k = 16; k < 24; ++k)
    EXPECT_NE(std::to_integer<int>(out.view.codes[k]) & 0x7f, 0x7f) << k;
  EXPECT_EQ(std::to_integer<int>(out.view.codes[17]), 0x7e);
}

}  // namespace
}  // namespace phalanx::kernels
