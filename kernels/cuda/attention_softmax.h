// From scores to weights, and merging the partitions of a context. Included by the attention
// kernels; operations and their order are those of kernels/reference/attention_reference.cpp.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// Which of a partition's tokens a query sees: [first, end), counted from the partition's start.
struct TokensSeen {
  int first;
  int end;
  __device__ bool any() const { return first < end; }
};
__device__ __forceinline__ TokensSeen tokens_seen(int position, int sliding_window, int partition) {
  const int base = partition * kTokensOfPartition;
  return {max(oldest_token(position, sliding_window) - base, 0),
          min(position + 1 - base, kTokensOfPartition)};
}

/// Which partitions it sees.
struct PartitionsSeen {
  int first;
  int end;
  __device__ bool has(int partition) const { return partition >= first && partition < end; }
};
__device__ __forceinline__ PartitionsSeen partitions_seen(int position, int sliding_window) {
  return {oldest_token(position, sliding_window) / kTokensOfPartition,
          position / kTokensOfPartition + 1};
}

/// total' = total * total_factor + part * part_factor, as an fma.
struct MergeFactors {
  float total;
  float part;
};

/// Takes a part into maximum and sum.
__device__ __forceinline__ MergeFactors merge_sums(float& maximum, float& sum, float part_maximum,
                                                   float part_sum) {
  const float larger = maximum < part_maximum ? part_maximum : maximum;
  const MergeFactors factors{exp_as_on_cpu(maximum - larger), exp_as_on_cpu(part_maximum - larger)};
  maximum = larger;
  sum = __fmaf_rn(sum, factors.total, part_sum * factors.part);
  return factors;
}

__device__ __forceinline__ float merge_values(float total, float part,
                                              const MergeFactors& factors) {
  return __fmaf_rn(total, factors.total, part * factors.part);
}

/// Scores of a partition become weights exp(score - maximum), in place; the rows' states take in
/// their maxima and sums, or these go to partial_maxima and partial_sums, when not null. A row is
/// worked on by 16 lanes, lane i on tokens i, i + 16, ...; lanes are then added 8, 4, 2, 1.
template <typename Tile>
__device__ __forceinline__ void weigh(const RowState<Tile>& rows, std::byte* scores,
                                      const float* value_scales, int partition, int sliding_window,
                                      float* partial_maxima, float* partial_sums) {
  using Body = typename Tile::Body;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int i = lane % 16;
  static_assert(Tile::kRows % (2 * Tile::kWarps) == 0);
  PHALANX_ROLLED
  for (int pair = warp; pair < Tile::kRows / 2; pair += Tile::kWarps) {
    // Two rows a warp, two apart: 2 * 136 floats are 16 banks apart.
    const int row = pair / 2 * 4 + pair % 2 + lane / 16 * 2;
    const int position = rows.position[row];
    const TokensSeen seen = tokens_seen(position, sliding_window, partition);
    const float* from = reinterpret_cast<const float*>(scores) + row * kScoreRowFloats;
    constexpr float kMinusInfinity = -__builtin_huge_valf();
    float weights[8];
    float maximum = kMinusInfinity;
    PHALANX_UNROLL
    for (int j = 0; j < 8; ++j) {
      const int t = j * 16 + i;
      weights[j] = t >= seen.first && t < seen.end ? from[t] : kMinusInfinity;
      maximum = maximum < weights[j] ? weights[j] : maximum;
    }
    PHALANX_UNROLL
    for (int step = 8; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, maximum, step, 16);
      maximum = maximum < other ? other : maximum;
    }
    PHALANX_UNROLL
    for (int j = 0; j < 8; ++j) {
      const int t = j * 16 + i;
      weights[j] = t >= seen.first && t < seen.end ? exp_as_on_cpu(weights[j] - maximum) : 0.0F;
    }
    Body::round_weights(weights);
    float sum = 0.0F;
    PHALANX_UNROLL
    for (int j = 0; j < 8; ++j) sum += weights[j];
    PHALANX_UNROLL
    for (int half = 8; half > 0; half /= 2) sum += __shfl_down_sync(kAllLanes, sum, half, 16);
    __syncwarp();  // all scores have been read
    const float scale = Body::store_weights(weights, row, value_scales, scores);
    if (i != 0) continue;
    rows.part_scale[row] = scale;
    if (!seen.any()) {
      rows.part_factor[row] = -1.0F;
      rows.total_factor[row] = 0.0F;
    } else if (partial_sums != nullptr) {
      partial_maxima[row] = maximum;
      partial_sums[row] = sum;
    } else if (rows.sum[row] < 0.0F) {
      rows.maximum[row] = maximum;
      rows.sum[row] = sum;
      rows.total_factor[row] = -1.0F;
      rows.part_factor[row] = 1.0F;
    } else {
      float total_maximum = rows.maximum[row];
      float total_sum = rows.sum[row];
      const MergeFactors factors = merge_sums(total_maximum, total_sum, maximum, sum);
      rows.maximum[row] = total_maximum;
      rows.sum[row] = total_sum;
      rows.total_factor[row] = factors.total;
      rows.part_factor[row] = factors.part;
    }
  }
}

}  // namespace phalanx::kernels::cuda
