// Scalar row operators, written from operators.h. Called by reference_operators and tests.
#pragma once

#include <cstdint>

namespace phalanx::kernels::reference {

/// lane_sum16_of_squares of operators.h, one element at a time.
float sum_of_squares(const float* x, int64_t num_cols);

void rms_norm(const float* x, const float* weight, float eps, int64_t num_cols, float* y);

/// The backend's exp (kernels/cpu/vec16_math.h) for one number.
float exp(float x);

float silu(float x);

}  // namespace phalanx::kernels::reference
