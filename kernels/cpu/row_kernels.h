// Row operators of the CPU backend, one table of functions per instruction-set tier.
// Called by cpu_operators, which checks shapes and spreads rows over threads.
#pragma once

#include <cstdint>

#include "kernels/cpu_backend.h"

namespace phalanx::kernels::cpu {

/// Formulas and orders of operations are those of operators.h; every table gives the same bits.
/// Pointers need no alignment. The functions do not throw and may run on any thread.
struct RowKernels {
  /// lane_sum16_of_squares.
  float (*sum_of_squares)(const float* x, int64_t num_cols);

  /// y = x * (1 / sqrt(mean(x^2) + eps)) * weight; y may be x.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t num_cols, float* y);

  /// residual += delta (+ bias unless null).
  void (*add)(float* residual, const float* delta, const float* bias, int64_t num_cols);

  /// residual[k] += tree over i < num_parts of parts[i][offset + k] (+ bias[k] unless null).
  void (*add_parts)(float* residual, const float* const* parts, size_t num_parts, int64_t offset,
                    const float* bias, int64_t num_cols);

  /// Rotates num_heads heads of head_dim floats; cosines and sines hold rotary_dim / 2 floats.
  void (*rope)(float* x, int64_t num_heads, int64_t head_dim, int64_t rotary_dim,
               const float* cosines, const float* sines);

  /// y[i] = silu(gate[i]) * up[i]; y may be gate or up.
  void (*silu_mul)(const float* gate, const float* up, int64_t num_cols, float* y);

  /// y[i] = exp(x[i]), vec16_math.h: here so that tests can measure it.
  void (*exp)(const float* x, int64_t num_cols, float* y);
};

const RowKernels& row_kernels(IsaTier tier);

const RowKernels& row_kernels_portable();
const RowKernels& row_kernels_avx2();    ///< only where CMake builds the x86 tiers
const RowKernels& row_kernels_avx512();  ///< only where CMake builds the x86 tiers

}  // namespace phalanx::kernels::cpu
