// The arithmetic of sampling, one source for CPU and GPU: softmax weights as integers, the order of
// tokens, penalties, what filters and the draw compare. Called by runtime/executor/sampler.cpp and
// kernels/cuda/device_sampler.cu.
//
// All is single IEEE operations (no contraction, nvcc's division is exact by default), so both give
// the same bits. Weights are summed as integers: sums do not depend on their order, so a GPU may
// add them up with atomics and find places in the cumulative distribution without sorting.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace phalanx::kernels {

// ---- bits (std::bit_cast is not for device code)

PHALANX_HOST_DEVICE constexpr uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
PHALANX_HOST_DEVICE constexpr uint64_t bits_of(double x) { return __builtin_bit_cast(uint64_t, x); }
PHALANX_HOST_DEVICE constexpr float float_of(uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}
PHALANX_HOST_DEVICE constexpr double double_of(uint64_t bits) {
  return __builtin_bit_cast(double, bits);
}

inline constexpr float kLargestFloat = 3.40282347e+38F;

// ---- weights

/// exp(x) for lowest <= x <= 0, relative error below 2e-7; 0 for x < lowest and for NaN. `lowest`
/// is not below -87, where the result would become subnormal. A compiler can vectorize it; the C
/// library's exp promises neither its bits nor that.
PHALANX_HOST_DEVICE constexpr float exp_weight_down_to(float lowest, float x) {
  constexpr float kLog2E = 1.44269504F;
  constexpr float kRound = 12582912.0F;     // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLn2High = 0.693359375F;  // ln 2 = high + low; n * high is exact
  constexpr float kLn2Low = -2.12194440e-4F;
  const float clamped = x > lowest ? x : lowest;
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
  const uint32_t exponent = bits_of(rounded) << 23;
  const uint32_t keep = 0U - static_cast<uint32_t>(x >= lowest);
  return float_of((bits_of(y) + exponent) & keep);
}

PHALANX_HOST_DEVICE constexpr float exp_weight(float x) { return exp_weight_down_to(-87.0F, x); }

/// Weights count in units of 2^-43; the best token's is 2^43. A row of 2^20 tokens sums up to 2^63
/// at most. Weights of 2^-19 and more are exact; smaller ones are rounded to the nearest unit.
inline constexpr int64_t kMaxSampledVocab = int64_t{1} << 20;
inline constexpr double kWeightUnit = 0x1p-43;

/// Below this a weight is 0, from here up at least one unit: the tokens with a weight are a prefix
/// of the ranking. Tokens below it have less than 2^-26 of the mass of a row of 2^17 tokens, a
/// quarter of the step of the uniform number that draws.
inline constexpr float kLowestScaled = -30.0F;

/// In [512, 1024) doubles are whole units apart, so adding 512 rounds and leaves the number of
/// units in the low bits.
inline constexpr double kUnitRounder = 512.0;

/// A logit against the row's largest.
PHALANX_HOST_DEVICE constexpr float scaled_logit(float logit, float max, float temperature) {
  return (logit - max) / temperature;
}

/// exp(scaled) in units; scaled <= 0. 0 for NaN.
PHALANX_HOST_DEVICE constexpr uint64_t unit_weight(float scaled) {
  const auto weight = static_cast<double>(exp_weight_down_to(kLowestScaled, scaled));
  return bits_of(weight + kUnitRounder) - bits_of(kUnitRounder);
}

// ---- logarithm

/// The natural logarithm of a positive normal number; absolute error below 2^-51 * max(1, |log x|).
/// The C library's is not the same on every machine, nor on a GPU.
PHALANX_HOST_DEVICE constexpr double exact_order_log(double x) {
  constexpr uint64_t kOne = 0x3ff0000000000000U;
  constexpr uint64_t kRootHalf = 0x3fe6a09e667f3bcdU;  // sqrt(1/2)
  constexpr double kLn2High = 0x1.62e42fee00000p-1;    // exact times any exponent
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  // x = m * 2^exponent, m in [sqrt(1/2), sqrt(2)).
  const uint64_t shifted = bits_of(x) + (kOne - kRootHalf);
  const auto exponent = static_cast<double>(static_cast<int64_t>(shifted >> 52) - 1023);
  const double m = double_of((shifted & 0xfffffffffffffU) + kRootHalf);
  // log m = 2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...), |s| < 0.1716; the first term left out is
  // below 2^-57 of the first.
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double sum = 1.0 / 23.0;
  for (int n = 21; n >= 3; n -= 2) sum = sum * z + 1.0 / static_cast<double>(n);
  const double low = 2.0 * s * (z * sum) + exponent * kLn2Low;
  return exponent * kLn2High + (2.0 * s + low);
}

/// The logarithm of a sum of weights in units; units >= 1.
PHALANX_HOST_DEVICE constexpr double log_of_units(uint64_t units) {
  return exact_order_log(static_cast<double>(static_cast<int64_t>(units)) * kWeightUnit);
}

/// log softmax of a raw logit.
PHALANX_HOST_DEVICE constexpr float logprob_of(float logit, float max, double log_sum) {
  return static_cast<float>((static_cast<double>(logit) - static_cast<double>(max)) - log_sum);
}

// ---- the row

/// +infinity counts as the largest finite value, so that differences stay defined.
PHALANX_HOST_DEVICE constexpr float finite_above(float logit) {
  return logit > kLargestFloat ? kLargestFloat : logit;
}

/// Repetition as in Keskar et al. 2019 (CTRL) with the sign rule of transformers; presence and
/// frequency as OpenAI's API reference defines them. For tokens that the sequence has.
PHALANX_HOST_DEVICE constexpr float penalized_logit(float logit, int32_t num_generated,
                                                    float repetition, float presence,
                                                    float frequency) {
  logit = logit > 0.0F ? logit / repetition : logit * repetition;
  if (num_generated == 0) return logit;
  logit -= presence;
  logit -= frequency * static_cast<float>(num_generated);
  return logit;
}

/// Ascending keys are descending logits. Adding zero makes -0 and +0 tie.
PHALANX_HOST_DEVICE constexpr uint32_t descending_key(float logit) {
  const uint32_t bits = bits_of(logit + 0.0F);
  return (bits & 0x80000000U) != 0 ? bits : ~bits & 0x7fffffffU;
}
/// The logit of a key.
PHALANX_HOST_DEVICE constexpr float logit_of_key(uint32_t key) {
  return float_of((key & 0x80000000U) != 0 ? key : ~key & 0x7fffffffU);
}
/// Ascending keys are the ranking: descending logits, then ascending ids.
PHALANX_HOST_DEVICE constexpr uint64_t ranking_key(uint32_t key, uint32_t token) {
  return static_cast<uint64_t>(key) << 32 | token;
}

// ---- filters and the draw; sums are over prefixes of the ranking

/// min_p keeps tokens whose scaled logit is at least this; min_p in [0, 1].
PHALANX_HOST_DEVICE constexpr float min_p_floor(float min_p) {
  if (!(min_p > 0.0F)) return -kLargestFloat;
  return static_cast<float>(exact_order_log(static_cast<double>(min_p)));
}

/// top_p keeps the shortest prefix whose sum is at least this; at least 1, since the best token
/// stays. top_p < 1.
PHALANX_HOST_DEVICE constexpr uint64_t nucleus_units(float top_p, uint64_t sum) {
  const double share = static_cast<double>(top_p) * static_cast<double>(static_cast<int64_t>(sum));
  const auto units = static_cast<uint64_t>(static_cast<int64_t>(share));
  return units > 1 ? units : 1;
}

/// The draw takes the first token whose prefix sums up to more than this share of the kept sum:
/// floor(sum * uniform / 2^24), exactly. Less than sum.
PHALANX_HOST_DEVICE constexpr uint64_t draw_units(uint64_t sum, uint32_t uniform) {
  return (sum >> 24) * uniform + ((sum & 0xffffffU) * uniform >> 24);
}

}  // namespace phalanx::kernels
