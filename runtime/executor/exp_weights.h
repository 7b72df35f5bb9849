// exp() for softmax weights, the same bits on every machine, and its sum over a row. Called by
// sampler.cpp.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace phalanx {

/// exp(x) for x <= 0, relative error below 2e-7; 0 for x < -87 and for NaN. Made of single IEEE
/// operations in a fixed order, so every machine gives the same bits (the C library's exp does
/// not promise that) and the compiler can vectorize it.
inline float exp_weight(float x) {
  constexpr float kSmallest = -87.0F;  // below, the result would be subnormal
  constexpr float kLog2E = 1.44269504F;
  constexpr float kRound = 12582912.0F;     // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLn2High = 0.693359375F;  // ln 2 = high + low; n * high is exact
  constexpr float kLn2Low = -2.12194440e-4F;
  const float clamped = x > kSmallest ? x : kSmallest;
  const float rounded = clamped * kLog2E + kRound;
  const float n = rounded - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2)/2
  float y = 1.0F / 5040.0F;  // Taylor series; the next term is below 6e-9
  y = y * r + 1.0F / 720.0F;
  y = y * r + 1.0F / 120.0F;
  y = y * r + 1.0F / 24.0F;
  y = y * r + 1.0F / 6.0F;
  y = y * r + 0.5F;
  y = y * r + 1.0F;
  y = y * r + 1.0F;
  // The integer in the low bits of `rounded`, shifted into y's exponent; the rest falls off.
  const uint32_t exponent = std::bit_cast<uint32_t>(rounded) << 23;
  const uint32_t keep = 0U - static_cast<uint32_t>(x >= kSmallest);
  return std::bit_cast<float>((std::bit_cast<uint32_t>(y) + exponent) & keep);
}

/// sum_i exp_weight((logits[i] - max) / temperature), in double, in an order that depends on the
/// row's length only.
double exp_weight_sum(std::span<const float> logits, float max, float temperature);

}  // namespace phalanx
