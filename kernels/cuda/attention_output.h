// How attention's results leave a block: as rows of f32, or converted for the next linear. Included
// by the attention kernels.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_views.h"
#include "kernels/cuda/row_kernels.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// Results of a tile: tokens [first_row, first_row + num_tokens) with columns [first_col, first_col
/// + num_cols) of the concatenated heads each.
struct TileOfOutput {
  int64_t first_row;
  int num_tokens;
  int first_col;
  int num_cols;
};

/// Writes values [num_tokens][num_cols] in shared memory, which all threads have written. By all
/// threads. `is_last`: words of shared memory, one a token.
__device__ __forceinline__ void store_tile(const float* values, const TileOfOutput& tile,
                                           const AttentionOutput& to, int* is_last) {
  const int thread = static_cast<int>(threadIdx.x);
  const int num_threads = static_cast<int>(blockDim.x);
  const int count = tile.num_tokens * tile.num_cols;
  const DeviceActivation& out = to.out;
  if (out.form == DeviceForm::kBf16) {
    auto* codes = static_cast<uint16_t*>(out.codes);
    for (int i = thread; i < count / 2; i += num_threads) {  // columns are even
      const int64_t row = tile.first_row + 2 * i / tile.num_cols;
      const int col = tile.first_col + 2 * i % tile.num_cols;
      *reinterpret_cast<uint32_t*>(codes + row * to.num_cols + col) =
          f32x2_to_bf16x2(values[2 * i], values[2 * i + 1]);
    }
    return;
  }
  const auto group_size = static_cast<int>(out.group_size);
  const bool has_scales = has_groups(out.form);
  if (has_scales && to.groups_in_tiles) {
    const int groups_of_token = tile.num_cols / group_size;
    for (int i = thread / 32; i < tile.num_tokens * groups_of_token; i += num_threads / 32) {
      const int64_t row = tile.first_row + i / groups_of_token;
      const int group = tile.first_col / group_size + i % groups_of_token;
      store_group(values + i * group_size, row, to.num_cols, group, out);
    }
    return;
  }
  float* rows = has_scales ? to.waiting_rows : out.rows.data;
  const int64_t stride = has_scales ? to.num_cols : out.rows.stride;
  for (int i = thread; i < count; i += num_threads) {
    const int64_t row = tile.first_row + i / tile.num_cols;
    rows[row * stride + tile.first_col + i % tile.num_cols] = values[i];
  }
  if (!has_scales) return;

  __threadfence();
  __syncthreads();
  for (int i = thread; i < tile.num_tokens; i += num_threads) {
    uint32_t* arrivals = to.row_arrivals + tile.first_row + i;
    is_last[i] = atomicAdd(arrivals, 1U) == to.tiles_of_row - 1 ? 1 : 0;
    if (is_last[i] != 0) *arrivals = 0;
  }
  __syncthreads();
  __threadfence();
  for (int i = 0; i < tile.num_tokens; ++i) {
    if (is_last[i] == 0) continue;
    const int64_t row = tile.first_row + i;
    for (int group = thread / 32; group < to.num_cols / group_size; group += num_threads / 32)
      store_group(rows + row * stride + group * group_size, row, to.num_cols, group, out);
  }
}

}  // namespace phalanx::kernels::cuda
