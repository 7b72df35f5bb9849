// The kernel between the q/k/v projection and attention: head norm of q and k, rotation of q and k,
// and keys and values into the KV pool. A warp a head. Launched by kv_write_launches; the same bits
// as head_norm, rope and write_kv of the reference.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/kv_layout.h"
#include "kernels/cuda/row_kernels.h"
#include "kernels/cuda/row_views.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

inline constexpr int kKvWriteWarps = 8;  ///< of a block: heads at once

/// Parts whose pointers are null are left out.
struct KvWrite {
  DeviceRows q;       ///< [R, num_query_heads * D], in place
  ConstDeviceRows k;  ///< [R, num_kv_heads * D]
  ConstDeviceRows v;  ///< [R, num_kv_heads * D]
  int num_query_heads;
  int num_kv_heads;
  int head_dim;
  const float* q_weight;  ///< [D]; the norm of each head of q
  const float* k_weight;  ///< [D]
  float eps;
  const float* cosines;  ///< [positions, rotary_dim / 2]; the rotation of q and k
  const float* sines;    ///< as cosines
  int rotary_dim;
  const SequenceRows* sequences;  ///< give rows positions and blocks; null: all rows, norm only
  int num_sequences;
  std::byte* pool;  ///< [blocks][num_kv_heads][block_bytes]
  int64_t block_bytes;
};

/// Floats of shared memory of one warp: the head, its codes, and what quantize_group gives besides.
constexpr size_t kv_write_floats(int64_t head_dim) {
  return static_cast<size_t>(head_dim + head_dim / 4 + 4);
}

/// x = rms_norm(x) * weight over D, by one warp: 16 lanes add up the squares, each every 16th.
__device__ __forceinline__ void norm_head(float* x, int head_dim, const float* weight, float eps) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float sum = 0.0F;
  if (lane < kNormLanes) {
    for (int d = lane; d < head_dim; d += kNormLanes) sum = __fmaf_rn(x[d], x[d], sum);
  }
  for (int half = kNormLanes / 2; half > 0; half /= 2)
    sum += __shfl_down_sync(kAllLanes, sum, half);
  const float mean = __fdiv_rn(__shfl_sync(kAllLanes, sum, 0), static_cast<float>(head_dim));
  const float inverse = __fdiv_rn(1.0F, __fsqrt_rn(mean + eps));
  for (int d = lane; d < head_dim; d += 32) x[d] = (x[d] * inverse) * weight[d];
  __syncwarp();
}

/// Rotates the halves of one head, by one warp.
__device__ __forceinline__ void rotate_head(float* x, int rotary_dim, const float* cosines,
                                            const float* sines) {
  const int half = rotary_dim / 2;
  for (int d = static_cast<int>(threadIdx.x % 32); d < half; d += 32) {
    const float low = x[d];
    const float high = x[d + half];
    x[d] = __fmaf_rn(low, cosines[d], -(high * sines[d]));
    x[d + half] = __fmaf_rn(high, cosines[d], low * sines[d]);
  }
  __syncwarp();
}

/// Stores a head of keys or values, x [D] in shared memory, as `token` of a KV block. By one warp.
/// `codes`: room for D + 4 bytes in shared memory.
template <KvFormat kFormat, bool kIsKey>
__device__ __forceinline__ void store_head(const float* x, int head_dim, int token,
                                           std::byte* block, int8_t* codes) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  std::byte* part = block + (kIsKey ? 0 : values_offset<kFormat>(head_dim));
  if constexpr (kFormat == KvFormat::kF32) {
    auto* to = reinterpret_cast<float*>(part) + token * head_dim;
    for (int d = lane; d < head_dim; d += 32) to[d] = x[d];
  } else if constexpr (kFormat == KvFormat::kBf16) {
    for (int d = lane * 8; d < head_dim; d += 32 * 8) {
      uint4 words;
      words.x = f32x2_to_bf16x2(x[d], x[d + 1]);
      words.y = f32x2_to_bf16x2(x[d + 2], x[d + 3]);
      words.z = f32x2_to_bf16x2(x[d + 4], x[d + 5]);
      words.w = f32x2_to_bf16x2(x[d + 6], x[d + 7]);
      auto* to = reinterpret_cast<uint16_t*>(part) + key_index<kFormat>(head_dim, token, d);
      *reinterpret_cast<uint4*>(to) = words;
    }
  } else {
    auto* scales =
        reinterpret_cast<float*>(block + (kIsKey ? key_scales_offset<kFormat>(head_dim)
                                                 : value_scales_offset<kFormat>(head_dim)));
    quantize_group(x, head_dim, codes, scales + token,
                   reinterpret_cast<int32_t*>(codes + head_dim));
    __syncwarp();
    auto* to = reinterpret_cast<int8_t*>(part);
    if constexpr (kIsKey) {
      for (int d = lane * 8; d < head_dim; d += 32 * 8) {
        *reinterpret_cast<uint2*>(to + key_index<kFormat>(head_dim, token, d)) =
            *reinterpret_cast<const uint2*>(codes + d);
      }
    } else {
      for (int d = lane; d < head_dim; d += 32) {
        to[value_index<kFormat>(head_dim, token, d)] = codes[d];
      }
    }
  }
}

/// Block (r, y): heads [8 y, 8 y + 8) of row r, counted over q, then k, then v. Rows that no
/// sequence has are left alone.
template <KvFormat kFormat>
__global__ void __launch_bounds__(kKvWriteWarps * 32) write_kv(KvWrite a) {
  auto* found = shared_memory<int>();
  const auto row = static_cast<int64_t>(blockIdx.x);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  SequenceRows sequence{};
  int64_t position = 0;
  if (a.sequences != nullptr) {
    const int s = sequence_of_row(a.sequences, a.num_sequences, row, found);
    if (s < 0) return;
    sequence = a.sequences[s];
    position = sequence.first_position + row - sequence.first_row;
  }
  const int query_heads = a.q.data != nullptr ? a.num_query_heads : 0;
  const int key_heads = a.k.data != nullptr ? a.num_kv_heads : 0;
  const int value_heads = a.v.data != nullptr ? a.num_kv_heads : 0;
  const int job = static_cast<int>(blockIdx.y) * kKvWriteWarps + warp;
  if (job >= query_heads + key_heads + value_heads) return;
  const bool is_query = job < query_heads;
  const bool is_key = !is_query && job < query_heads + key_heads;
  const int head = is_query ? job : is_key ? job - query_heads : job - query_heads - key_heads;
  const float* from = is_query ? a.q.data + row * a.q.stride
                      : is_key ? a.k.data + row * a.k.stride
                               : a.v.data + row * a.v.stride;
  from += head * a.head_dim;

  float* x = shared_memory<float>() + 4 + warp * (a.head_dim + a.head_dim / 4 + 4);
  for (int d = lane; d < a.head_dim; d += 32) x[d] = from[d];
  __syncwarp();
  const float* weight = is_query ? a.q_weight : is_key ? a.k_weight : nullptr;
  if (weight != nullptr) norm_head(x, a.head_dim, weight, a.eps);
  if (a.cosines != nullptr && (is_query || is_key)) {
    const int64_t angles = position * (a.rotary_dim / 2);
    rotate_head(x, a.rotary_dim, a.cosines + angles, a.sines + angles);
  }
  if (is_query) {
    float* to = a.q.data + row * a.q.stride + head * a.head_dim;
    for (int d = lane; d < a.head_dim; d += 32) to[d] = x[d];
    return;
  }
  const int64_t id = sequence.block_table[position / kTokensOfBlock];
  const int token = static_cast<int>(position % kTokensOfBlock);
  std::byte* block = a.pool + (id * a.num_kv_heads + head) * a.block_bytes;
  auto* codes = reinterpret_cast<int8_t*>(x + a.head_dim);
  if (is_key) {
    store_head<kFormat, true>(x, a.head_dim, token, block, codes);
  } else {
    store_head<kFormat, false>(x, a.head_dim, token, block, codes);
  }
}

}  // namespace phalanx::kernels::cuda
