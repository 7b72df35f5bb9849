// The inside of a KV block on the device: where the keys, values and scales of one head's 32 tokens
// lie. Called by the kernels that write and read KV blocks.
//
// D is head_dim, a multiple of 8. A KV block is keys, values, then for int8 f32 key scales [32] and
// value scales [32]. Keys and values are cut in matrices of 8 rows of 16 bytes, 128 bytes in a row
// each: what one ldmatrix takes, from all 32 banks at once, so that a tile is copied to shared
// memory as it lies.
//   f32          keys, values [32][D]
//   bf16         keys, values [32/8][D/8][8 tokens][8 dimensions]
//   int8, e4m3   keys [32/8][D/C][8 tokens][C dimensions], C = 16 (8 if D is no multiple of 16);
//                values [D/8][2][8 dimensions][16 tokens]: products over tokens want the bytes of
//                four tokens in a word
#pragma once

#include <cstdint>

#include "kernels/cuda/simt.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cuda {

inline constexpr int kTokensOfBlock = static_cast<int>(kBlockTokens);
inline constexpr int kTokensOfPartition =
    static_cast<int>(kBlockTokens * kAttentionPartitionBlocks);

/// Bytes of one stored element.
template <KvFormat kFormat>
__host__ __device__ constexpr int kv_element_bytes() {
  return kFormat == KvFormat::kF32 ? 4 : kFormat == KvFormat::kBf16 ? 2 : 1;
}

/// Whether each token and head has a scale.
template <KvFormat kFormat>
__host__ __device__ constexpr bool kv_has_scales() {
  return kFormat == KvFormat::kInt8;
}

/// Element (token, d) of the keys, in elements from their start.
template <KvFormat kFormat>
__host__ __device__ constexpr int key_index(int head_dim, int token, int d) {
  if constexpr (kFormat == KvFormat::kF32) return token * head_dim + d;
  const int chunk = kFormat == KvFormat::kBf16 || head_dim % 16 != 0 ? 8 : 16;
  return (token / 8 * (head_dim / chunk) + d / chunk) * (8 * chunk) + token % 8 * chunk + d % chunk;
}

/// Element (token, d) of the values, in elements from their start.
template <KvFormat kFormat>
__host__ __device__ constexpr int value_index(int head_dim, int token, int d) {
  if constexpr (kv_element_bytes<kFormat>() > 1) return key_index<kFormat>(head_dim, token, d);
  return (d / 8 * 2 + token / 16) * 128 + d % 8 * 16 + token % 16;
}

/// Bytes from the block's start.
template <KvFormat kFormat>
__host__ __device__ constexpr int values_offset(int head_dim) {
  return kTokensOfBlock * head_dim * kv_element_bytes<kFormat>();
}
template <KvFormat kFormat>
__host__ __device__ constexpr int key_scales_offset(int head_dim) {
  return 2 * values_offset<kFormat>(head_dim);
}
template <KvFormat kFormat>
__host__ __device__ constexpr int value_scales_offset(int head_dim) {
  return key_scales_offset<kFormat>(head_dim) + kTokensOfBlock * static_cast<int>(sizeof(float));
}

/// The oldest token that the one at `position` sees.
__device__ __forceinline__ int oldest_token(int position, int sliding_window) {
  const int oldest = position - sliding_window + 1;
  return sliding_window > 0 && oldest > 0 ? oldest : 0;
}

/// The sequence that has row `row` of the step, or -1: found by all threads of the block together.
/// `found` is a word of shared memory.
__device__ __forceinline__ int sequence_of_row(const SequenceRows* sequences, int num_sequences,
                                               int64_t row, int* found) {
  if (threadIdx.x == 0) *found = -1;
  __syncthreads();
  for (int s = static_cast<int>(threadIdx.x); s < num_sequences;
       s += static_cast<int>(blockDim.x)) {
    const int64_t first = sequences[s].first_row;
    if (row >= first && row < first + sequences[s].num_rows) *found = s;
  }
  __syncthreads();
  return *found;
}

}  // namespace phalanx::kernels::cuda
