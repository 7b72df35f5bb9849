// The end of gated_linear inside its kernels: silu(gate) * up in the form of the next linear.
// Included by the matrix-product kernels.
//
// A group of s8 or e4m3 outputs is quantized by one block: the last one to bring a part of it.
// Until then products wait as f32 in global memory (L2).
#pragma once

#include <cstdint>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/linear_call.h"
#include "kernels/cuda/row_kernels.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// Puts product `col` of a row where it belongs; forms with groups: where it waits.
__device__ __forceinline__ void store_gated(const GatedOutput& gated, int64_t num_cols, int64_t row,
                                            int64_t col, float gate, float up) {
  const float product = silu(gate) * up;
  if (gated.out.form == DeviceForm::kF32) {
    gated.out.rows.data[row * gated.out.rows.stride + col] = product;
  } else if (gated.out.form == DeviceForm::kBf16) {
    static_cast<uint16_t*>(gated.out.codes)[row * num_cols + col] = f32_to_bf16(product);
  } else {
    gated.products[row * num_cols + col] = product;
  }
}

/// The part of the outputs that a block has brought by store_gated.
struct GatedPart {
  int num_cols;    ///< of the whole output
  int first_col;   ///< the block's columns begin here: a multiple of block_cols
  int block_cols;  ///< of every block but perhaps the last
  int first_row;
  int end_row;
  int row_block;  ///< rows [first_row, end_row) are those of all blocks of this row block
};

/// Quantizes the groups of the block's columns that are complete, once all of its threads have
/// called store_gated. `flag` is a word of shared memory that nothing else uses now. All threads
/// call together; does nothing for forms without groups.
__device__ __forceinline__ void quantize_complete_groups(const GatedOutput& gated,
                                                         const GatedPart& part, uint32_t* flag) {
  if (!has_groups(gated.out.form)) return;
  const auto group_size = static_cast<int>(gated.out.group_size);
  const int num_groups = part.num_cols / group_size;
  const int end_col = min(part.first_col + part.block_cols, part.num_cols);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int num_warps = static_cast<int>(blockDim.x) / 32;
  __threadfence();  // what this thread stored is there before its block's arrival is counted
  __syncthreads();
  for (int group = part.first_col / group_size; group * group_size < end_col; ++group) {
    const int begin = group * group_size;
    const int last_block = (begin + group_size - 1) / part.block_cols;
    const auto expected = static_cast<uint32_t>(last_block - begin / part.block_cols + 1);
    bool complete = true;
    if (expected > 1) {
      if (threadIdx.x == 0) {
        uint32_t* count =
            gated.arrivals + static_cast<int64_t>(part.row_block) * num_groups + group;
        const uint32_t before = atomicAdd(count, 1U);
        if (before + 1 == expected) *count = 0;  // for the next launch
        *flag = before + 1;
        __threadfence();
      }
      __syncthreads();
      complete = *flag == expected;
      __syncthreads();
    }
    if (!complete) continue;
    for (int row = part.first_row + warp; row < part.end_row; row += num_warps) {
      const int64_t first = static_cast<int64_t>(row) * part.num_cols + begin;
      store_group(gated.products + first, row, part.num_cols, group, gated.out);
    }
  }
}

}  // namespace phalanx::kernels::cuda
