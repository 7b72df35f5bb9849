// The passes of sampling over whole rows, many blocks a row: best keys of sub-blocks, then weights
// and their distribution. Launched by device_sampler; the draw itself is in draw_kernel.h.
//
// Bytes of a row of V logits: scan_rows reads 4 V. weigh_rows reads 4 V, less what sub-blocks
// without a weight hold, and nothing for greedy rows that want no logprobs. With penalties each
// reads 4 V more. Of 128,256 logits a row is 513 KB: 64 rows stay in an L2 of 50 MB from pass to
// pass; 256 rows are 131 MB, 39 us a pass at 3.35 TB/s (computed, not measured). Weights go to bins
// by two or three 32-bit shared atomics each, which same-valued rows make collide.
//
// All sums are of integers, so neither the grid nor the order of blocks shows.
//
// Grid: x shares the row's groups of sub-blocks, y is the row.
#pragma once

#include <cstdint>

#include "kernels/cuda/sampling_rows.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

inline constexpr int kPassThreads = 256;
inline constexpr int kPassWarps = kPassThreads / 32;

/// Writes the best keys of all sub-blocks and clears what weigh_rows adds to.
template <typename Arguments = SamplerView>
__global__ void __launch_bounds__(kPassThreads) scan_rows(Arguments view) {
  const auto row_index = static_cast<int64_t>(blockIdx.y);
  SampledRow row;
  if (!open_row(view, row_index, &row)) return;
  const auto thread = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  const auto num_threads = static_cast<int32_t>(gridDim.x * blockDim.x);
  for (int32_t i = thread; i < kBins; i += num_threads) {
    view.bin_counts[row_index * kBins + i] = 0;
    view.bin_units[row_index * kBins + i] = 0;
  }
  if (thread < 2) view.sums[row_index * 2 + thread] = 0;

  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  uint32_t* best_keys = view.best_keys + row_index * view.num_sub_blocks;
  uint32_t* raw_best_keys = view.raw_best_keys + row_index * view.num_sub_blocks;
  for (int32_t first = thread / 32 * kGroup; first < view.num_sub_blocks;
       first += num_threads / 32 * kGroup) {
    FourLogits four[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) four[i] = row.raw.load((first + i) * kSubBlock + lane * 4);
    const auto best_of = [&](const FourLogits& logits) {
      uint32_t best = kNoKey;
      for (const float x : logits.x) {
        const uint32_t key = key_of_value(finite_above(x));
        best = key < best ? key : best;
      }
      return smallest_of_warp(best);
    };
    if (row.values.seen != nullptr) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const uint32_t raw_best = best_of(four[i]);
        if (lane == 0) raw_best_keys[first + i] = raw_best;
        row.values.make_values(&four[i], row.values.load_seen((first + i) * kSubBlock + lane * 4));
      }
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const uint32_t best = best_of(four[i]);
      if (lane == 0) best_keys[first + i] = best;
    }
  }
}

struct WeighShared {
  BinSums bins;
  uint32_t warps[kPassWarps];
};

/// Adds up the weights: by bins for the draw, of what min_p keeps, and of the raw logits.
template <typename Arguments = SamplerView>
__global__ void __launch_bounds__(kPassThreads) weigh_rows(Arguments view) {
  const auto row_index = static_cast<int64_t>(blockIdx.y);
  SampledRow row;
  if (!open_row(view, row_index, &row)) return;
  if (!row.wants_weights && !row.wants_raw_sum) return;
  auto* shared = shared_memory<WeighShared>();
  shared->bins.clear();
  const uint32_t best = best_key_of_row(row.values, shared->warps);
  const uint32_t raw_best =
      row.values.seen == nullptr ? best : best_key_of_row(row.raw, shared->warps);
  if (best == kNoKey || raw_best == kNoKey) return;  // no draw from this row
  const Scale scale{logit_of_key(best), row.slot->params.temperature};
  const Scale raw_scale{logit_of_key(raw_best), 1.0F};

  const float min_p_floor = row.slot->min_p_floor;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  Units min_p_units = 0;
  Units raw_units = 0;
  for (auto first = static_cast<int32_t>(blockIdx.x * kPassWarps + threadIdx.x / 32) * kGroup;
       first < view.num_sub_blocks;
       first += static_cast<int32_t>(gridDim.x * kPassWarps) * kGroup) {
    FourLogits four[kGroup];
    bool weighs[kGroup];
    bool weighs_raw[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      weighs[i] = row.wants_weights && scale.has_weight(row.values.best_keys[first + i]);
      weighs_raw[i] = row.wants_raw_sum && raw_scale.has_weight(row.raw.best_keys[first + i]);
      if (weighs[i] || weighs_raw[i]) four[i] = row.raw.load((first + i) * kSubBlock + lane * 4);
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      if (weighs_raw[i]) {
        for (const float x : four[i].x) raw_units += unit_weight(raw_scale.scaled(finite_above(x)));
      }
      if (!weighs[i]) continue;
      row.values.make_values(&four[i], row.values.load_seen((first + i) * kSubBlock + lane * 4));
      for (const float x : four[i].x) {
        const float scaled = scale.scaled(x);
        if (!(scaled >= kLowestScaled)) continue;
        const Units units = unit_weight(scaled);
        shared->bins.add(bin_of(scaled), units);
        if (scaled >= min_p_floor) min_p_units += units;
      }
    }
  }
  for (int step = 16; step > 0; step /= 2) {
    min_p_units += __shfl_xor_sync(kAllLanes, min_p_units, step);
    raw_units += __shfl_xor_sync(kAllLanes, raw_units, step);
  }
  if (lane == 0) {
    if (min_p_units != 0) atomicAdd(&view.sums[row_index * 2], min_p_units);
    if (raw_units != 0) atomicAdd(&view.sums[row_index * 2 + 1], raw_units);
  }
  __syncthreads();
  for (auto i = static_cast<int>(threadIdx.x); i < kBins; i += kPassThreads) {
    if (shared->bins.counts[i] == 0) continue;
    atomicAdd(&view.bin_counts[row_index * kBins + i], shared->bins.counts[i]);
    atomicAdd(&view.bin_units[row_index * kBins + i], shared->bins.units(i));
  }
}

}  // namespace phalanx::kernels::cuda
