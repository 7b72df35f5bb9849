// bf16 and e4m3 conversions of kernels against their definitions: every code, every tie between two
// codes and its neighbours, and random bits.
#include "kernels/cuda/number_formats.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/launch.h"
#include "tests/kernels/cuda/builtin_kernels.h"
#include "tests/kernels/cuda/thread_orders.h"

namespace phalanx::kernels::cuda::test {
namespace {

/// sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity. Source: OCP 8-bit floating point
/// specification 1.0, table 2.
double e4m3_value(uint8_t code) {
  const int exponent = code >> 3 & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code >= 0x80 ? -magnitude : magnitude;
}

/// The nearest code by search, ties to the even one.
uint8_t nearest_e4m3(float value) {
  if (std::isnan(value)) return 0x7f;
  uint8_t best = 0;
  for (uint8_t code = 1; code < 0x7f; ++code) {
    const double distance = std::abs(e4m3_value(code) - std::abs(double{value}));
    const double least = std::abs(e4m3_value(best) - std::abs(double{value}));
    if (distance < least || (distance == least && code % 2 == 0)) best = code;
  }
  if (std::isinf(value)) best = 0x7e;
  return std::signbit(value) ? best | 0x80 : best;
}

/// The nearest of the two bf16 around value, ties to the even one.
uint16_t nearest_bf16(float value) {
  if (std::isnan(value)) return 0x7fff;
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto below = static_cast<uint16_t>(bits >> 16);  // towards zero
  const uint32_t rest = bits & 0xffffU;
  const bool up = rest > 0x8000U || (rest == 0x8000U && below % 2 == 1);
  return static_cast<uint16_t>(below + (up ? 1 : 0));
}

std::vector<uint32_t> interesting_bits() {
  std::vector<uint32_t> bits;
  for (uint32_t code = 0; code < 0x10000; ++code) bits.push_back(code << 16 | code);
  for (uint32_t code = 0; code < 0x10000; code += 5) bits.push_back(code << 16 | 0x8000U);
  for (int code = 0; code < 0x7e; ++code) {
    const double tie =
        (e4m3_value(static_cast<uint8_t>(code)) + e4m3_value(static_cast<uint8_t>(code + 1))) / 2;
    const auto at = std::bit_cast<uint32_t>(static_cast<float>(tie));
    for (const uint32_t near : {at - 1, at, at + 1})
      for (const uint32_t sign : {0U, 0x80000000U}) bits.push_back(near | sign);
  }
  for (const float value : {448.0F, 463.99F, 464.0F, 464.01F, 480.0F, 1e30F, 0x1p-10F, 0x1p-11F})
    for (const float sign : {1.0F, -1.0F}) bits.push_back(std::bit_cast<uint32_t>(sign * value));
  for (const uint32_t special : {0x7f800000U, 0xff800000U, 0x7fc00000U, 0xffc12345U, 0x7f800001U,
                                 0x7f7fffffU, 0xff7fffffU, 0x00000001U, 0x80000001U})
    bits.push_back(special);
  std::mt19937 random(8);
  for (int i = 0; i < 20'000; ++i) bits.push_back(random());
  // Where e4m3 has values: exponents from 2^-12 to 2^9.
  for (int i = 0; i < 20'000; ++i)
    bits.push_back((random() & 0x807fffffU) | (115 + random() % 22) << 23);
  return bits;
}

TEST(NumberFormats, WidenFourE4m3CodesToF16) {
  std::vector<uint32_t> words;
  for (uint32_t code = 0; code < 256; ++code) {
    const uint32_t other = (code * 37 + 11) % 256;
    if ((code & 0x7fU) == 0x7fU || (other & 0x7fU) == 0x7fU) continue;
    words.push_back(code | other << 8 | other << 16 | code << 24);
  }
  std::vector<uint32_t> halves(2 * words.size());
  launch(widen_codes<uint32_t>, {1, 256}, nullptr, words.data(),
         static_cast<uint32_t>(words.size()), halves.data());
  for (size_t i = 0; i < words.size(); ++i) {
    for (size_t byte = 0; byte < 4; ++byte) {
      const auto code = static_cast<uint8_t>(words[i] >> (8 * byte));
      const auto half = static_cast<uint16_t>(halves[2 * i + byte / 2] >> (16 * (byte % 2)));
      ASSERT_EQ(phalanx::f16_to_f32(half), e4m3_value(code));
      ASSERT_EQ(half >> 15, code >> 7);
    }
  }
}

TEST(NumberFormats, ConvertAsDefined) {
  const auto bits = interesting_bits();
  const auto count = static_cast<uint32_t>(bits.size());
  const auto [to_bf16, to_e4m3, from_bf16, from_e4m3, pairs] = [&] {
    std::vector<uint16_t> bf16(count);
    std::vector<uint8_t> e4m3(count);
    std::vector<float> wide_bf16(count);
    std::vector<float> wide_e4m3(count);
    std::vector<uint32_t> both(count);
    launch(convert_formats<uint32_t>, {(count + 255) / 256, 256}, nullptr, bits.data(), count,
           bf16.data(), e4m3.data(), wide_bf16.data(), wide_e4m3.data(), both.data());
    return std::tuple(bf16, e4m3, wide_bf16, wide_e4m3, both);
  }();
  for (uint32_t i = 0; i < count; ++i) {
    const auto value = std::bit_cast<float>(bits[i]);
    ASSERT_EQ(to_bf16[i], nearest_bf16(value)) << value;
    ASSERT_EQ(to_e4m3[i], nearest_e4m3(value)) << value << ", bits " << bits[i];
    ASSERT_EQ(std::bit_cast<uint32_t>(from_bf16[i]), bits[i] << 16);
    const double wide = e4m3_value(static_cast<uint8_t>(bits[i]));
    if (std::isnan(wide)) {
      ASSERT_TRUE(std::isnan(from_e4m3[i]));
    } else {
      ASSERT_EQ(from_e4m3[i], wide);
      ASSERT_EQ(std::signbit(from_e4m3[i]), (bits[i] & 0x80U) != 0);
    }
    const uint32_t low = nearest_bf16(value);
    const uint32_t high = nearest_bf16(-value);
    ASSERT_EQ(pairs[i], high << 16 | low);
  }
}

}  // namespace
}  // namespace phalanx::kernels::cuda::test
