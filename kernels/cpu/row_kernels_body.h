// The row operators over Vec16: compiled once per tier, included only by row_kernels_*.cpp after
// their vec16_*.h and vec16_math.h. Nothing here may call a non-inlined library function.
#pragma once

#include <cstdint>

#include "kernels/cpu/row_kernels.h"

namespace phalanx::kernels::cpu {
namespace {

float sum_of_squares(const float* x, int64_t num_cols) {
  Vec16 lanes = Vec16::zero();
  int64_t k = 0;
  for (; k + 16 <= num_cols; k += 16) {
    const Vec16 v = Vec16::load(x + k);
    lanes = fma(v, v, lanes);
  }
  if (k < num_cols) {
    const Vec16 v = Vec16::load_first(x + k, num_cols - k);
    lanes = fma(v, v, lanes);
  }
  return lanes.sum();
}

void rms_norm(const float* x, const float* weight, float eps, int64_t num_cols, float* y) {
  const float mean = sum_of_squares(x, num_cols) / static_cast<float>(num_cols);
  const Vec16 inverse = Vec16::broadcast(1.0F / __builtin_sqrtf(mean + eps));
  int64_t k = 0;
  for (; k + 16 <= num_cols; k += 16) {
    (Vec16::load(x + k) * inverse * Vec16::load(weight + k)).store(y + k);
  }
  if (k < num_cols) {
    const int64_t n = num_cols - k;
    (Vec16::load_first(x + k, n) * inverse * Vec16::load_first(weight + k, n))
        .store_first(y + k, n);
  }
}

void add(float* residual, const float* delta, const float* bias, int64_t num_cols) {
  for (int64_t k = 0; k < num_cols; k += 16) {
    const int64_t n = num_cols - k < 16 ? num_cols - k : 16;
    Vec16 d = Vec16::load_first(delta + k, n);
    if (bias != nullptr) d = d + Vec16::load_first(bias + k, n);
    (Vec16::load_first(residual + k, n) + d).store_first(residual + k, n);
  }
}

/// The sum of `kParts` parts' elements [at, at + n), n <= 16, as a binary tree.
template <size_t kParts>
[[gnu::always_inline]] inline Vec16 tree_of_parts(const float* const* parts, int64_t at,
                                                  int64_t n) {
  if constexpr (kParts == 1) {
    return n == 16 ? Vec16::load(parts[0] + at) : Vec16::load_first(parts[0] + at, n);
  } else {
    return tree_of_parts<kParts / 2>(parts, at, n) +
           tree_of_parts<kParts / 2>(parts + kParts / 2, at, n);
  }
}

constexpr size_t kUnrolledParts = 8;

/// The same for any larger power of two.
Vec16 tree_of_many_parts(const float* const* parts, size_t num_parts, int64_t at, int64_t n) {
  if (num_parts == kUnrolledParts) return tree_of_parts<kUnrolledParts>(parts, at, n);
  const size_t half = num_parts / 2;
  const Vec16 left = tree_of_many_parts(parts, half, at, n);
  return left + tree_of_many_parts(parts + half, half, at, n);
}

template <typename Tree>
[[gnu::always_inline]] inline void add_sums(float* residual, const Tree& tree, const float* bias,
                                            int64_t num_cols) {
  for (int64_t k = 0; k < num_cols; k += 16) {
    const int64_t n = num_cols - k < 16 ? num_cols - k : 16;
    Vec16 sum = tree(k, n);
    if (bias != nullptr) sum = sum + Vec16::load_first(bias + k, n);
    (Vec16::load_first(residual + k, n) + sum).store_first(residual + k, n);
  }
}

void add_parts(float* residual, const float* const* parts, size_t num_parts, int64_t offset,
               const float* bias, int64_t num_cols) {
  const auto add_fixed = [&]<size_t kParts>() {
    const float* own[kParts];  // a copy, which stores to the residual cannot change
    for (size_t i = 0; i < kParts; ++i) own[i] = parts[i] + offset;
    add_sums(
        residual, [&](int64_t k, int64_t n) { return tree_of_parts<kParts>(own, k, n); }, bias,
        num_cols);
  };
  switch (num_parts) {
    case 1:
      return add_fixed.template operator()<1>();
    case 2:
      return add_fixed.template operator()<2>();
    case 4:
      return add_fixed.template operator()<4>();
    case 8:
      return add_fixed.template operator()<8>();
    default:
      add_sums(
          residual,
          [&](int64_t k, int64_t n) { return tree_of_many_parts(parts, num_parts, offset + k, n); },
          bias, num_cols);
  }
}

void rope(float* x, int64_t num_heads, int64_t head_dim, int64_t rotary_dim, const float* cosines,
          const float* sines) {
  const int64_t half = rotary_dim / 2;
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t n = half - i < 16 ? half - i : 16;
    const Vec16 cosine = Vec16::load_first(cosines + i, n);
    const Vec16 sine = Vec16::load_first(sines + i, n);
    for (int64_t h = 0; h < num_heads; ++h) {
      float* head = x + h * head_dim + i;
      const Vec16 a = Vec16::load_first(head, n);
      const Vec16 b = Vec16::load_first(head + half, n);
      fma(a, cosine, negate(b * sine)).store_first(head, n);
      fma(b, cosine, a * sine).store_first(head + half, n);
    }
  }
}

void silu_mul(const float* gate, const float* up, int64_t num_cols, float* y) {
  const Vec16 one = Vec16::broadcast(1.0F);
  for (int64_t i = 0; i < num_cols; i += 16) {
    const int64_t n = num_cols - i < 16 ? num_cols - i : 16;
    const Vec16 g = Vec16::load_first(gate + i, n);
    const Vec16 silu = g / (one + exp(negate(g)));
    (silu * Vec16::load_first(up + i, n)).store_first(y + i, n);
  }
}

void exp_row(const float* x, int64_t num_cols, float* y) {
  for (int64_t i = 0; i < num_cols; i += 16) {
    const int64_t n = num_cols - i < 16 ? num_cols - i : 16;
    exp(Vec16::load_first(x + i, n)).store_first(y + i, n);
  }
}

constexpr RowKernels kRowKernels{sum_of_squares, rms_norm, add, add_parts, rope, silu_mul, exp_row};

}  // namespace
}  // namespace phalanx::kernels::cpu
