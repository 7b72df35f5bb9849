// A row of logits as sampling kernels read it: values after penalties, their keys and weights, and
// walking the parts of a row that can matter. Included by sampling_kernels.h and
// sampling_selection.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/sampling_views.h"
#include "kernels/cuda/simt.h"
#include "kernels/sampling_math.h"

namespace phalanx::kernels::cuda {

/// No token: NaN and -infinity. Greater than every token's key.
inline constexpr uint32_t kNoKey = 0xffffffffU;
inline constexpr uint32_t kWorstKey = 0xff7fffffU;    // of the smallest finite logit
inline constexpr uint32_t kLargestKey = 0x00800000U;  // of the largest

/// Four of a lane's logits, or NaN beyond the vocabulary.
struct FourLogits {
  float x[4];
};

/// One row, either as it came (seen: null) or after penalties.
struct RowValues {
  const float* logits;
  const uint32_t* seen;
  const uint32_t* best_keys;  ///< [num_sub_blocks]
  int32_t vocab_size;
  int32_t num_sub_blocks;
  float repetition, presence, frequency;

  __device__ __forceinline__ FourLogits load(int32_t first) const {
    FourLogits four;
    if (first + 4 <= vocab_size) {
      const float4 v = *reinterpret_cast<const float4*>(logits + first);
      four = {{v.x, v.y, v.z, v.w}};
    } else {
      for (int i = 0; i < 4; ++i)
        four.x[i] = first + i < vocab_size ? logits[first + i] : __uint_as_float(0x7fc00000U);
    }
    return four;
  }

  __device__ __forceinline__ uint4 load_seen(int32_t first) const {
    if (seen == nullptr || first >= vocab_size) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4*>(seen + first);
  }

  __device__ __forceinline__ float value(float logit, uint32_t seen_word) const {
    logit = finite_above(logit);
    if (seen_word == 0) return logit;
    return finite_above(penalized_logit(logit, static_cast<int32_t>(seen_word & ~kSeen), repetition,
                                        presence, frequency));
  }

  /// The values of four, in place.
  __device__ __forceinline__ void make_values(FourLogits* four, const uint4& seen_words) const {
    four->x[0] = value(four->x[0], seen_words.x);
    four->x[1] = value(four->x[1], seen_words.y);
    four->x[2] = value(four->x[2], seen_words.z);
    four->x[3] = value(four->x[3], seen_words.w);
  }
};

__device__ __forceinline__ uint32_t key_of_value(float value) {
  return value >= -kLargestFloat ? descending_key(value) : kNoKey;
}

/// A row's best value and the temperature: what weights are made with.
struct Scale {
  float max;
  float temperature;

  __device__ __forceinline__ float scaled(float value) const {
    const float difference = value - max;  // divided by 1 it stays as it is
    return temperature == 1.0F ? difference : difference / temperature;
  }
  __device__ __forceinline__ float scaled_key(uint32_t key) const {
    return scaled(logit_of_key(key));
  }
  /// Whether the best of a sub-block, and so any of its tokens, has a weight.
  __device__ __forceinline__ bool has_weight(uint32_t best_key) const {
    return best_key <= kWorstKey && scaled_key(best_key) >= kLowestScaled;
  }
};

/// scaled in [kLowestScaled, 0]. Multiplying by a power of two is exact, so bins are parts of the
/// ranking.
__device__ __forceinline__ int bin_of(float scaled) {
  return static_cast<int>(scaled * -kBinsPerUnit);
}

/// A row's slot, its values and its raw logits. Without penalties these are the same.
struct SampledRow {
  const DeviceSlot* slot;
  RowValues values;
  RowValues raw;
  bool wants_weights;  ///< a draw by chance
  bool wants_logprobs;
  bool wants_raw_sum;  ///< and it is not the sum of the weights that are drawn from
};

/// False: nothing is to be drawn from this row.
__device__ __forceinline__ bool open_row(const SamplerView& view, int64_t row, SampledRow* opened) {
  const uint32_t slot = view.rows[row].slot;
  if (slot >= view.num_slots) return false;
  opened->slot = view.slots + slot;
  const DrawParams& params = opened->slot->params;
  if (opened->slot->active == 0) return false;
  const bool penalized = opened->slot->penalty_row >= 0;
  RowValues& values = opened->values;
  values.logits = view.logits + row * view.stride;
  values.seen = penalized ? view.seen + opened->slot->penalty_row * view.seen_stride : nullptr;
  values.best_keys = view.best_keys + row * view.num_sub_blocks;
  values.vocab_size = view.vocab_size;
  values.num_sub_blocks = view.num_sub_blocks;
  values.repetition = params.repetition_penalty;
  values.presence = params.presence_penalty;
  values.frequency = params.frequency_penalty;
  opened->raw = values;
  if (penalized) {
    opened->raw.seen = nullptr;
    opened->raw.best_keys = view.raw_best_keys + row * view.num_sub_blocks;
  }
  opened->wants_weights = params.temperature != 0.0F;
  opened->wants_logprobs = params.num_top_logprobs >= 0;
  opened->wants_raw_sum = opened->wants_logprobs && (penalized || params.temperature != 1.0F);
  return true;
}

/// The smallest of all threads' values. Barriers of the block; `warps` are words of shared memory,
/// one a warp.
__device__ __forceinline__ uint32_t smallest_of_block(uint32_t value, uint32_t* warps) {
  value = smallest_of_warp(value);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  const auto num_warps = static_cast<uint32_t>(blockDim.x) / 32;
  for (uint32_t i = 0; i < num_warps; ++i) value = warps[i] < value ? warps[i] : value;
  __syncthreads();
  return value;
}

__device__ __forceinline__ uint32_t best_key_of_row(const RowValues& row, uint32_t* warps) {
  uint32_t best = kNoKey;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < row.num_sub_blocks;
       i += static_cast<int32_t>(blockDim.x)) {
    best = row.best_keys[i] < best ? row.best_keys[i] : best;
  }
  return smallest_of_block(best, warps);
}

/// Numbers and sums of weights of tokens in bins, added up by all threads in shared memory. Sums
/// are in two words, since 32-bit atomics are what shared memory has units for.
struct BinSums {
  uint32_t counts[kBins];
  uint32_t low[kBins];
  uint32_t high[kBins];

  __device__ __forceinline__ void clear() {
    for (auto i = static_cast<int>(threadIdx.x); i < kBins; i += static_cast<int>(blockDim.x))
      counts[i] = low[i] = high[i] = 0;
  }

  __device__ __forceinline__ void add(int bin, Units units) {
    atomicAdd(&counts[bin], 1U);
    const auto low_word = static_cast<uint32_t>(units);
    auto high_word = static_cast<uint32_t>(units >> 32);
    if (low_word != 0 && atomicAdd(&low[bin], low_word) > ~low_word) ++high_word;  // it wrapped
    if (high_word != 0) atomicAdd(&high[bin], high_word);
  }

  __device__ __forceinline__ Units units(int bin) const {
    return static_cast<Units>(high[bin]) << 32 | low[bin];
  }
};

}  // namespace phalanx::kernels::cuda
