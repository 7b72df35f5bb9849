// bf16, f16 and e4m3 conversions against their definitions, for every bit pattern.
#include "runtime/base/dtype.h"

#include <bit>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

namespace phalanx {
namespace {

TEST(DType, NamesRoundTrip) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBf16, DType::kI8, DType::kU8, DType::kI32,
                      DType::kF8E4M3}) {
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
  }
  EXPECT_FALSE(parse_dtype("f64").has_value());
}

TEST(DType, EveryF16AndBf16SurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float f16 = f16_to_f32(half);
    if (!std::isnan(f16)) {
      EXPECT_EQ(f32_to_f16(f16), half) << bits;
    }
    const float bf16 = bf16_to_f32(half);
    if (!std::isnan(bf16)) {
      EXPECT_EQ(f32_to_bf16(bf16), half) << bits;
    }
  }
}

/// The nearest of all f16 values, ties to the even pattern.
uint16_t nearest_f16(float value) {
  const auto below = [&](uint16_t bits) { return f16_to_f32(bits) <= std::fabs(value); };
  uint16_t low = 0;  // magnitudes are ordered like their bit patterns
  for (uint16_t step = 0x4000; step != 0; step >>= 1) {
    if (low + step <= 0x7bff && below(static_cast<uint16_t>(low + step))) low += step;
  }
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double to_low = std::fabs(value) - static_cast<double>(f16_to_f32(low));
  const double high = low == 0x7bff ? 65536.0 : static_cast<double>(f16_to_f32(low + 1));
  const double to_high = high - std::fabs(value);
  const bool up = to_high < to_low || (to_high == to_low && (low & 1) != 0);
  return static_cast<uint16_t>(sign | (up ? low + 1 : low));
}

TEST(DType, F16RoundsToNearestEven) {
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    const float value = std::ldexp(static_cast<float>(random()) / 4294967296.0F - 0.5F,
                                   static_cast<int>(random() % 48) - 28);
    ASSERT_EQ(f32_to_f16(value), nearest_f16(value)) << value;
  }
  EXPECT_EQ(f32_to_f16(65504.0F), 0x7bff);
  EXPECT_EQ(f32_to_f16(65519.99F), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7c00);
  EXPECT_EQ(f32_to_f16(INFINITY), 0x7c00);
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(NAN))));
}

TEST(DType, Bf16RoundsToNearestEven) {
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808000U)), 0x3f80);  // tie, even below
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f818000U)), 0x3f82);  // tie, even above
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808001U)), 0x3f81);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x7f7fffffU)), 0x7f80);  // overflows to infinity
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001U)))));
}

TEST(DType, EveryE4m3IsItsDefinition) {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_f32(static_cast<uint8_t>(code));
    const int exponent = (code >> 3) & 15;
    const int mantissa = code & 7;
    if (exponent == 15 && mantissa == 7) {
      EXPECT_TRUE(std::isnan(value)) << code;
      continue;
    }
    const double magnitude = exponent == 0 ? std::ldexp(mantissa / 8.0, -6)
                                           : std::ldexp(1.0 + mantissa / 8.0, exponent - 7);
    EXPECT_EQ(static_cast<double>(std::fabs(value)), magnitude) << code;
    EXPECT_EQ(std::signbit(value), code >= 128) << code;
    EXPECT_EQ(f32_to_e4m3(value), code);
  }
  EXPECT_EQ(e4m3_to_f32(0x7e), kE4m3Max);
}

/// Beside every value, beside every middle of two, and far out.
TEST(DType, E4m3RoundsToNearestEvenAndSaturates) {
  const auto expect = [](float value, int code) {
    EXPECT_EQ(f32_to_e4m3(value), code) << value;
    EXPECT_EQ(f32_to_e4m3(-value), code | 0x80) << -value;
  };
  for (int code = 0; code < 0x7e; ++code) {
    const float low = e4m3_to_f32(static_cast<uint8_t>(code));
    const float high = e4m3_to_f32(static_cast<uint8_t>(code + 1));
    const float middle = (low + high) / 2;  // exact
    expect(std::nextafter(low, high), code);
    expect(std::nextafter(middle, low), code);
    expect(middle, code % 2 == 0 ? code : code + 1);
    expect(std::nextafter(middle, high), code + 1);
    expect(std::nextafter(high, low), code + 1);
  }
  for (const float value : {448.5F, 464.0F, 1e30F, INFINITY}) expect(value, 0x7e);
  expect(0x1p-149F, 0);
  EXPECT_EQ(f32_to_e4m3(NAN), 0x7f);
  EXPECT_EQ(f32_to_e4m3(-NAN), 0x7f);
}

}  // namespace
}  // namespace phalanx
