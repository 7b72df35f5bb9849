// RTN: error bounds, exact codes for known inputs, the inverse.
#include "runtime/builder/quantizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace phalanx::builder {
namespace {

engine::Weight weight_of(engine::WeightFormat format, int64_t cols, int64_t group) {
  engine::Weight weight;
  weight.set_format(format);
  weight.set_rows(1);
  weight.set_cols(cols);
  weight.set_group_size(group);
  return weight;
}

std::vector<float> through(engine::WeightFormat format, int64_t group,
                           const std::vector<float>& row) {
  const auto cols = static_cast<int64_t>(row.size());
  const engine::Weight weight = weight_of(format, cols, group);
  std::vector<std::byte> codes(row.size() * 4);
  std::vector<uint16_t> scales(group > 0 ? row.size() / static_cast<size_t>(group) : 0);
  encode_row(weight, row, codes.data(), scales.data());
  std::vector<float> back(row.size());
  decode_row(weight, codes.data(), scales.data(), back);
  return back;
}

std::vector<float> normal_row(uint64_t seed, size_t size, float deviation) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> row(size);
  for (float& w : row) w = normal(random);
  return row;
}

TEST(QuantizerW8, KnownCodes) {
  // The largest is 127 * 0.5, so the scale is exactly 0.5.
  const std::vector<float> group = {63.5F, -63.5F, 0.0F, 0.25F, 0.75F, -0.25F, 1.0F, -31.0F};
  std::vector<uint8_t> codes(group.size());
  const uint16_t scale = quantize_group_w8(group, codes.data());
  EXPECT_EQ(bf16_to_f32(scale), 0.5F);
  // Halves go to even: 0.25/0.5 = 0.5 -> 0, 0.75/0.5 = 1.5 -> 2, -0.5 -> 0.
  EXPECT_EQ(codes, (std::vector<uint8_t>{255, 1, 128, 128, 130, 128, 130, 66}));
}

TEST(QuantizerW8, ErrorBoundPerElement) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const float deviation = std::ldexp(1.0F, static_cast<int>(seed % 40) - 20);
    const std::vector<float> row = normal_row(seed, 64, deviation);
    std::vector<uint8_t> codes(row.size());
    const float scale = bf16_to_f32(quantize_group_w8(row, codes.data()));
    float largest = 0;
    for (float w : row) largest = std::max(largest, std::fabs(w));
    EXPECT_NEAR(scale, largest / 127, largest / 127 / 256);  // bf16 keeps 8 bits
    for (size_t i = 0; i < row.size(); ++i) {
      const float decoded = static_cast<float>(codes[i] - 128) * scale;
      EXPECT_LE(std::fabs(decoded - row[i]), 0.502F * scale) << seed << " " << i;
      EXPECT_GE(codes[i], 1);
    }
  }
}

TEST(QuantizerFp8, KnownBlock) {
  // Two rows, of which three columns; the largest is 448 * 0.5.
  const std::vector<float> weights = {224.0F, -224.0F, 0.5F, 9, -0.0F, 8.5F, 0x1p-11F, 9};
  std::vector<uint8_t> codes(8, 0x55);
  EXPECT_EQ(quantize_block_fp8(weights.data(), 2, 3, 4, codes.data()), 0.5F);
  // 17 lies between 16 and 18: to even. 2^-10 is half the least step: to zero.
  EXPECT_EQ(codes, (std::vector<uint8_t>{0x7e, 0xfe, 0x38, 0x55, 0, 0x58, 0, 0x55}));
}

TEST(QuantizerFp8, ExtremesStayFinite) {
  for (const float largest :
       {std::numeric_limits<float>::max(), 1e-30F, 0x1p-100F, 3e38F, 1e-35F, 0.0F}) {
    const std::vector<float> weights = {largest, -largest, largest / 3, 0};
    std::vector<uint8_t> codes(4);
    const float scale = quantize_block_fp8(weights.data(), 1, 4, 4, codes.data());
    for (size_t i = 0; i < 4; ++i) {
      const float decoded = e4m3_to_f32(codes[i]) * scale;
      EXPECT_TRUE(std::isfinite(decoded)) << largest;
      EXPECT_LE(std::fabs(decoded - weights[i]),
                std::max(std::fabs(weights[i]) / 16 * 1.001F, 0x1p-100F))
          << largest;
    }
  }
}

TEST(QuantizerFp8, RowsHaveAScaleEveryBlock) {
  engine::Weight weight = weight_of(engine::FP8, 20, 4);
  weight.set_scale_rows(2);
  weight.set_scale_cols(8);
  std::vector<float> rows(3 * 20);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(1 + i);
  std::vector<uint8_t> codes(rows.size());
  std::vector<float> scales(6);
  encode_fp8_rows(weight, rows, codes.data(), scales.data());
  const std::vector<float> largest = {28, 36, 40, 48, 56, 60};  // the last rows and columns ragged
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(scales[i], largest[i] / 448) << i;
}

TEST(Quantizer, ZeroAndTinyGroups) {
  for (const float w : {0.0F, -0.0F, 1e-38F, -1e-32F}) {
    const std::vector<float> group(8, w);
    std::vector<uint8_t> codes(8);
    EXPECT_EQ(quantize_group_w8(group, codes.data()), 0);
    EXPECT_EQ(codes, std::vector<uint8_t>(8, 128));
    EXPECT_EQ(quantize_group_w4(group, codes.data()), 0);
    EXPECT_EQ(codes, std::vector<uint8_t>(8, 8));
  }
}

TEST(Quantizer, HugeWeightsStayFiniteAndNear) {
  constexpr float kMax = std::numeric_limits<float>::max();
  // Largest magnitudes around which largest / 127 or / 8 rounds up to a bf16 that overflows again.
  for (const float largest : {1e18F, 1e20F, 3e38F, 3.3895e38F, 3.396e38F, 3.4e38F, kMax}) {
    for (const float other : {largest, -largest, 0.5F * largest, 0.0F, 1.0F}) {
      const std::vector<float> row = {
          largest, other, -0.75F * largest, 0.0F, 0.25F * largest, -0.5F * largest, 1.0F, -other};
      for (const auto format : {engine::W8, engine::W4}) {
        const std::vector<float> back = through(format, 8, row);
        const float bound = (format == engine::W8 ? 0.01F : 0.16F) * largest;
        for (size_t i = 0; i < row.size(); ++i) {
          EXPECT_TRUE(std::isfinite(back[i])) << largest << " " << other << " " << i;
          EXPECT_LE(std::fabs(back[i] - row[i]), bound) << largest << " " << other << " " << i;
        }
      }
    }
  }
}

/// Scaling a group by a power of two scales what is decoded and changes no code.
TEST(QuantizerW4, ChoosesTheSameAtEveryMagnitude) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::vector<float> row = normal_row(seed, 32, 1.0F);
    std::vector<uint8_t> expected(32);
    const float scale = bf16_to_f32(quantize_group_w4(row, expected.data()));
    for (const int exponent : {-95, -70, -40, 40, 70, 120}) {
      std::vector<float> scaled = row;
      for (float& w : scaled) w = std::ldexp(w, exponent);
      std::vector<uint8_t> codes(32);
      EXPECT_EQ(bf16_to_f32(quantize_group_w4(scaled, codes.data())), std::ldexp(scale, exponent));
      EXPECT_EQ(codes, expected) << seed << " 2^" << exponent;
    }
  }
}

TEST(QuantizerW4, ExactGridsAreKept) {
  // Integers -7..7 times a power of two lie on the grid of candidate 7 ...
  std::vector<float> row;
  for (int i = -7; i <= 7; ++i) row.push_back(static_cast<float>(i) * 0.125F);
  row.push_back(0.0F);
  EXPECT_EQ(through(engine::W4, 16, row), row);
  // ... and -8..7 or -7..8 on that of candidate 8, with either sign of scale.
  row.back() = -8 * 0.125F;
  EXPECT_EQ(through(engine::W4, 16, row), row);
  row.back() = 8 * 0.125F;
  EXPECT_EQ(through(engine::W4, 16, row), row);
}

TEST(QuantizerW4, SearchBeatsPlainMaximumScaling) {
  double searched = 0;
  double plain = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const std::vector<float> row = normal_row(seed, 32, 1.0F);
    const std::vector<float> back = through(engine::W4, 32, row);
    float largest = 0;
    for (float w : row) largest = std::max(largest, std::fabs(w));
    const float scale = bf16_to_f32(f32_to_bf16(largest / 7));
    double here = 0;
    double there = 0;
    for (size_t i = 0; i < row.size(); ++i) {
      here += std::pow(back[i] - row[i], 2);
      there +=
          std::pow(std::clamp(std::nearbyint(row[i] / scale), -8.0F, 7.0F) * scale - row[i], 2);
    }
    EXPECT_LE(here, there * 1.0001) << seed;
    searched += here;
    plain += there;
  }
  EXPECT_LT(searched, 0.9 * plain);
}

TEST(QuantizerW4, EvenColumnsAreInTheLowNibble) {
  const std::vector<float> row = {1, -1, 7, -7, 2, 0, 0, 3};
  std::vector<std::byte> codes(4);
  uint16_t scale = 0;
  encode_row(weight_of(engine::W4, 8, 8), row, codes.data(), &scale);
  const float unit = bf16_to_f32(scale);
  ASSERT_EQ(std::fabs(unit), 1.0F);
  EXPECT_EQ(std::to_integer<int>(codes[0]) & 15, 8 + static_cast<int>(1 / unit));
  EXPECT_EQ(std::to_integer<int>(codes[0]) >> 4, 8 - static_cast<int>(1 / unit));
}

TEST(Quantizer, GroupsAreIndependent) {
  std::vector<float> row = normal_row(5, 64, 1.0F);
  const std::vector<float> before = through(engine::W4, 16, row);
  for (size_t i = 16; i < 32; ++i) row[i] *= 1000;
  const std::vector<float> after = through(engine::W4, 16, row);
  for (size_t i = 0; i < 64; ++i) {
    if (i < 16 || i >= 32) {
      EXPECT_EQ(before[i], after[i]);
    }
  }
}

TEST(Quantizer, PlainFormats) {
  const std::vector<float> row = {1.0F, -2.5F, 1.00390625F, 3.1415927F, 1e-40F, 65504.0F};
  EXPECT_EQ(through(engine::F32, 0, row), row);
  const std::vector<float> rounded = through(engine::BF16, 0, row);
  for (size_t i = 0; i < row.size(); ++i) EXPECT_EQ(rounded[i], bf16_to_f32(f32_to_bf16(row[i])));
  EXPECT_EQ(rounded[2], 1.0F);  // halfway, to even
}

TEST(Quantizer, WidenIsExactAtAnyAlignment) {
  const std::vector<float> values = {1.5F, -0.25F, 65504.0F, 5.9604645e-8F};
  std::vector<std::byte> bytes(1 + 4 * 4);
  std::vector<float> out(4);
  std::memcpy(bytes.data() + 1, values.data(), 16);
  widen_elements(bytes.data() + 1, DType::kF32, 4, out.data());
  EXPECT_EQ(out, values);
  for (size_t i = 0; i < 4; ++i) {
    const uint16_t half = f32_to_f16(values[i]);
    std::memcpy(bytes.data() + 1 + 2 * i, &half, 2);
  }
  widen_elements(bytes.data() + 1, DType::kF16, 4, out.data());
  EXPECT_EQ(out, values);
  for (size_t i = 0; i < 4; ++i) {
    const uint16_t half = f32_to_bf16(values[i]);
    std::memcpy(bytes.data() + 1 + 2 * i, &half, 2);
  }
  widen_elements(bytes.data() + 1, DType::kBf16, 4, out.data());
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(out[i], bf16_to_f32(f32_to_bf16(values[i])));
}

TEST(Quantizer, FindsWhatIsNotFinite) {
  std::vector<float> values(5, 1.0F);
  EXPECT_EQ(first_non_finite(values), -1);
  values[3] = NAN;
  values[4] = INFINITY;
  EXPECT_EQ(first_non_finite(values), 3);
}

}  // namespace
}  // namespace phalanx::builder
