// Starts the kernels over rows. Called by cuda_operators; compiled by nvcc and, for tests, by the
// C++ compiler on the emulated device.
//
// Shapes and orders of operations: operators.h. R rows, K columns. All pointers are device memory;
// nothing is checked here. R = 0 launches nothing. Errors: DeviceError (launch.h).
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_views.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cuda {

/// What convert_rows fills, as kernels take it.
DeviceActivation device_activation(const ActivationView& view);
/// Rows of f32 as an output.
DeviceActivation device_activation(Rows rows);

/// residual += sum of delta's parts (+ delta_bias); then, unless weight is null, out =
/// rms_norm(residual) * weight. With no parts only the norm.
void launch_add_rms_norm(Rows residual, const DeviceParts& delta, const float* delta_bias,
                         const float* weight, float eps, int64_t num_rows, int64_t num_cols,
                         const DeviceActivation& out, Stream stream);

void launch_silu_mul(ConstRows gate, ConstRows up, int64_t num_rows, int64_t num_cols,
                     const DeviceActivation& out, Stream stream);

void launch_convert(ConstRows x, int64_t num_rows, int64_t num_cols, const DeviceActivation& out,
                    Stream stream);

/// positions: [R] in device memory, as are the table's rows.
void launch_rope(Rows x, int64_t num_heads, int64_t head_dim, const RopeTable& table,
                 const int32_t* positions, int64_t num_rows, Stream stream);

/// rows: [num_rows] in device memory.
void launch_gather(ConstRows x, const int32_t* rows, int64_t num_rows, int64_t num_cols, Rows y,
                   Stream stream);

}  // namespace phalanx::kernels::cuda
