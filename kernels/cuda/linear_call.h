// What every kernel of linear and gated_linear is given: matrix, activations, and where the result
// goes. Plain values, filled by linear_launches, copied to the device with a launch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_matrix.h"
#include "kernels/cuda/row_views.h"

namespace phalanx::kernels::cuda {

/// Rows that a linear reads, in the form of its matrix.
struct LinearInput {
  const std::byte* codes;  ///< [R, K] f32 | bf16 | s8 | e4m3, row-contiguous
  const float* scales;     ///< [R, K/G] of s8 and e4m3
  const int32_t* sums;     ///< [R, K/G] of s8; read only when the matrix has zeros
  int64_t row_bytes;
  int32_t num_rows;
  bool whole_units;  ///< 16-byte units of steps are 16 aligned bytes of a row (dense_steps)
};

/// Where gated_linear puts silu(gate) * up.
struct GatedOutput {
  DeviceActivation out;
  /// Forms with groups only: [R, N/2] f32, what is not quantized yet; and a count of the blocks
  /// that have brought their part of a group, [row blocks][groups], 0 between launches.
  float* products;
  uint32_t* arrivals;
};

struct LinearCall {
  DeviceMatrix w;
  LinearInput x;
  float* y;  ///< linear: row r starts at y + r * y_stride
  int64_t y_stride;
  GatedOutput gated;  ///< gated_linear
};

}  // namespace phalanx::kernels::cuda
