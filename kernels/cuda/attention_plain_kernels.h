// Attention for what has no tiles: f32 keys and values, and head dimensions that no tile is built
// for. A block a query, scalar products, the oracle's operations and order (bf16: without its flush
// of denormals). Launched by attention_launches.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention_output.h"
#include "kernels/cuda/attention_softmax.h"
#include "kernels/cuda/attention_views.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/kv_layout.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// Shared memory: results [D], the query [D], weights [128], and words that all threads read.
inline constexpr int kPlainThreads = kTokensOfPartition;
inline constexpr int kPlainWords = 8;
constexpr size_t plain_shared_bytes(int64_t head_dim) {
  return static_cast<size_t>(2 * head_dim + kTokensOfPartition + kPlainWords) * sizeof(float);
}

template <KvFormat kFormat>
__device__ __forceinline__ float stored_element(const std::byte* part, int index) {
  if constexpr (kFormat == KvFormat::kF32) return reinterpret_cast<const float*>(part)[index];
  if constexpr (kFormat == KvFormat::kBf16) {
    return bf16_to_f32(reinterpret_cast<const uint16_t*>(part)[index]);
  }
  return static_cast<float>(reinterpret_cast<const int8_t*>(part)[index]);
}

/// values[0, count) in shared memory become integers, as floats; their scale. By one warp, of which
/// each lane gives back the scale.
__device__ __forceinline__ float make_integers(float* values, int count, float levels) {
  uint32_t largest = 0;
  for (int i = static_cast<int>(threadIdx.x % 32); i < count; i += 32) {
    largest = max(largest, __float_as_uint(values[i]) & 0x7fffffffU);
  }
  const IntegerSteps steps(largest_magnitude_of_warp(__uint_as_float(largest)), levels);
  for (int i = static_cast<int>(threadIdx.x % 32); i < count; i += 32) {
    values[i] =
        steps.inverse > 0.0F ? __int2float_rn(__float2int_rn(values[i] * steps.inverse)) : 0.0F;
  }
  return steps.scale;
}

/// Block (r, h): row r, query head h. Rows that no sequence has are left alone.
template <KvFormat kFormat>
__global__ void __launch_bounds__(kPlainThreads) attend_plain(PlainAttention a) {
  constexpr bool kIntegers = kv_has_scales<kFormat>();
  float* results = shared_memory<float>();
  float* query = results + a.head_dim;
  float* weights = query + a.head_dim;
  float* words = weights + kTokensOfPartition;  // maximum, sum, scale of query, scale of weights
  auto* word = reinterpret_cast<int*>(words + 4);
  const int thread = static_cast<int>(threadIdx.x);
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto head = static_cast<int>(blockIdx.y);

  const int s = sequence_of_row(a.sequences, a.num_sequences, row, word);
  if (s < 0) return;
  const SequenceRows sequence = a.sequences[s];
  const auto position = static_cast<int>(sequence.first_position + row - sequence.first_row);
  int kv_head = 0;
  while (a.groups.first[kv_head + 1] <= head) ++kv_head;

  for (int d = thread; d < a.head_dim; d += kPlainThreads) {
    const float q = a.q.data[row * a.q.stride + head * a.head_dim + d] * a.scale;
    query[d] = kFormat == KvFormat::kBf16 ? bf16_to_f32(f32_to_bf16(q)) : q;
  }
  __syncthreads();
  if constexpr (kIntegers) {
    if (thread < 32) {
      const float scale = make_integers(query, a.head_dim, 8191.0F);
      if (thread == 0) words[2] = scale;
    }
    __syncthreads();
  }

  const int first_partition = oldest_token(position, a.sliding_window) / kTokensOfPartition;
  float maximum = 0.0F;
  float sum = 0.0F;
  for (int partition = first_partition; partition <= position / kTokensOfPartition; ++partition) {
    const TokensSeen seen = tokens_seen(position, a.sliding_window, partition);
    const bool is_seen = thread >= seen.first && thread < seen.end;
    const auto block_of = [&](int t) {
      const int64_t id =
          sequence
              .block_table[partition * (kTokensOfPartition / kTokensOfBlock) + t / kTokensOfBlock];
      return a.pool + (id * a.num_kv_heads + kv_head) * a.block_bytes;
    };
    float value_scale = 1.0F;
    if (is_seen) {
      const std::byte* block = block_of(thread);
      const int t = thread % kTokensOfBlock;
      float score = 0.0F;
      int32_t integer = 0;
      for (int d = 0; d < a.head_dim; ++d) {
        const float key = stored_element<kFormat>(block, key_index<kFormat>(a.head_dim, t, d));
        if constexpr (kIntegers) {
          integer += __float2int_rn(query[d]) * __float2int_rn(key);
        } else {
          score = __fmaf_rn(query[d], key, score);
        }
      }
      if constexpr (kIntegers) {
        const auto* key_scales =
            reinterpret_cast<const float*>(block + key_scales_offset<kFormat>(a.head_dim));
        score = __int2float_rn(integer) * key_scales[t] * words[2];
        value_scale = key_scales[kTokensOfBlock + t];
      }
      weights[thread] = score;
    }
    __syncthreads();
    if (thread == 0) {
      float largest = -__builtin_huge_valf();
      for (int t = seen.first; t < seen.end; ++t)
        largest = largest < weights[t] ? weights[t] : largest;
      words[0] = largest;
    }
    __syncthreads();
    float weight = is_seen ? exp_as_on_cpu(weights[thread] - words[0]) : 0.0F;
    if (kFormat == KvFormat::kBf16) weight = bf16_to_f32(f32_to_bf16(weight));
    weights[thread] = weight;
    __syncthreads();
    if (thread < 16) {
      float lane_sum = 0.0F;
      for (int t = thread; t < kTokensOfPartition; t += 16) lane_sum += weights[t];
      for (int half = 8; half > 0; half /= 2)
        lane_sum += __shfl_down_sync(0xffffU, lane_sum, half, 16);
      if (thread == 0) words[1] = lane_sum;
    }
    __syncthreads();
    if constexpr (kIntegers) {
      weights[thread] = weight <= 0.0F ? 0.0F : weight * value_scale;
      __syncthreads();
      if (thread < 32) {
        const float scale = make_integers(weights, kTokensOfPartition, 16383.0F);
        if (thread == 0) words[3] = scale;
      }
      __syncthreads();
    }
    const float part_maximum = words[0];
    const float part_sum = words[1];
    const bool is_first = partition == first_partition;
    MergeFactors factors{};
    if (is_first) {
      maximum = part_maximum;
      sum = part_sum;
    } else {
      factors = merge_sums(maximum, sum, part_maximum, part_sum);
    }
    for (int d = thread; d < a.head_dim; d += kPlainThreads) {
      float part = 0.0F;
      int32_t integer = 0;
      for (int t = seen.first; t < seen.end; ++t) {
        const float value =
            stored_element<kFormat>(block_of(t) + values_offset<kFormat>(a.head_dim),
                                    value_index<kFormat>(a.head_dim, t % kTokensOfBlock, d));
        if constexpr (kIntegers) {
          integer += __float2int_rn(weights[t]) * __float2int_rn(value);
        } else {
          part = __fmaf_rn(weights[t], value, part);
        }
      }
      if constexpr (kIntegers) part = __int2float_rn(integer) * words[3];
      results[d] = is_first ? part : merge_values(results[d], part, factors);
    }
    __syncthreads();
  }
  const float inverse = __fdiv_rn(1.0F, sum);
  for (int d = thread; d < a.head_dim; d += kPlainThreads) results[d] *= inverse;
  __syncthreads();
  store_tile(results, {row, 1, head * a.head_dim, a.head_dim}, a.output, word);
}

}  // namespace phalanx::kernels::cuda
