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

constexpr RowKernels kRowKernels{sum_of_squares, rms_norm, add, rope, silu_mul, exp_row};

}  // namespace
}  // namespace phalanx::kernels::cpu
