// Starts the matrix-product kernels: linear, gated_linear, embedding. Called by cuda_operators;
// compiled by nvcc and, for tests, by the C++ compiler on the emulated device.
//
// Contracts and orders of operations: operators.h; kBf16 has an order of its own, the same for all
// kernels and numbers of rows: a lane's spans of 128 columns are summed by the matrix unit from 0
// and added in ascending order, then the lanes as a tree. kFp8's group is summed by the matrix unit
// from 0 as well: by f32 sums of exact products, 16 columns an instruction. All pointers are device
// memory. Shapes are checked by the caller (operator_checks.h). R = 0 launches nothing. Errors:
// DeviceError (launch.h); InternalError where a kernel cannot take a shape.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_matrix.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_views.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cuda {

/// The kernels that can make a product; all give the same bits.
///   kSmall       R <= 16, bound by the stream of weights.
///   kLargeWide   128 outputs x 128 tokens a block; at most 2 lanes.
///   kLarge       128 outputs x 64 tokens a block.
///   kLargeShort  32 outputs x 32 tokens a block: more blocks.
/// kF32 has one plain kernel for all.
enum class LinearKernel : uint8_t { kAuto, kSmall, kLargeWide, kLarge, kLargeShort };

/// What the choice of kernels depends on besides shapes. The bits do not.
struct LinearDevice {
  int num_sms = 132;
  int64_t shared_bytes_of_block = int64_t{227} * 1024;
  LinearKernel kernel = LinearKernel::kAuto;  ///< for tests and the tuner
};

/// y = x W^T (+ bias).
void launch_linear(const DeviceMatrix& w, const ActivationView& x, int64_t num_rows, Rows y,
                   const LinearDevice& device, Stream stream);

/// Scratch of launch_gated_linear, aligned to 256: f32 products that wait for their group (s8 and
/// e4m3 rows only) and counters of arrivals. The counters are zero before the first launch and are
/// left zero by each. Bytes grow with num_rows.
struct GatedScratch {
  int64_t products_bytes = 0;
  int64_t arrivals_bytes = 0;
};
GatedScratch gated_linear_scratch(WeightFormat format, int64_t num_outputs, ActivationForm form,
                                  int64_t group_size, int64_t num_rows);

/// out = convert_rows(silu(gate) * up), gate and up being the halves of the outputs. products and
/// arrivals: memory of gated_linear_scratch, null where that is 0.
void launch_gated_linear(const DeviceMatrix& w, const ActivationView& x, int64_t num_rows,
                         const DeviceActivation& out, float* products, uint32_t* arrivals,
                         const LinearDevice& device, Stream stream);

/// y[r, :] = row token_ids[r] of a packed matrix, dequantized. token_ids: [R] in device memory.
void launch_embedding(const DeviceMatrix& table, const int32_t* token_ids, int64_t num_rows, Rows y,
                      Stream stream);

/// The same of a natural-layout matrix whose pointers are device memory, with rows of f32 and bf16
/// aligned to their codes.
void launch_embedding(const MatrixSource& table, const int32_t* token_ids, int64_t num_rows, Rows y,
                      Stream stream);

}  // namespace phalanx::kernels::cuda
