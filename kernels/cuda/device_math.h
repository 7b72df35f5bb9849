// The backends' one exp, and sums and maxima over the lanes of a warp. Included by kernel sources
// through kernels/cuda/simt.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

inline constexpr uint32_t kAllLanes = 0xffffffffU;

/// kernels/cpu/vec16_math.h for one number, operation by operation: the same bits.
__device__ __forceinline__ float exp_as_on_cpu(float x) {
  constexpr float kLowest = -0x1.5d58ap+6F;
  constexpr float kHighest = 0x1.62e42ep+6F;
  constexpr float kRounder = 0x1.8p+23F;
  const float shifted = __fmaf_rn(x, 0x1.715476p+0F, kRounder);
  const float n = shifted - kRounder;
  float r = __fmaf_rn(n, -0x1.62e43p-1F, x);
  r = __fmaf_rn(n, 0x1.05c61p-29F, r);
  float p = __fmaf_rn(0x1.6a241ep-10F, r, 0x1.1239e6p-7F);
  p = __fmaf_rn(p, r, 0x1.5558f2p-5F);
  p = __fmaf_rn(p, r, 0x1.555492p-3F);
  p = __fmaf_rn(p, r, 0x1.fffffcp-2F);
  p = __fmaf_rn(p, r, 1.0F);
  p = __fmaf_rn(p, r, 1.0F);
  const float y = __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
  if (x <= kLowest) return 0.0F;
  return x <= kHighest ? y : x + __uint_as_float(0x7f800000U);  // infinity, or NaN
}

/// x / (1 + exp(-x)).
__device__ __forceinline__ float silu(float x) { return __fdiv_rn(x, 1.0F + exp_as_on_cpu(-x)); }

/// The largest |value| of the warp's lanes, compared as bit patterns: NaN is above infinity.
__device__ __forceinline__ float largest_magnitude_of_warp(float value) {
  uint32_t bits = __float_as_uint(value) & 0x7fffffffU;
  for (int step = 16; step > 0; step /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, bits, step);
    bits = bits > other ? bits : other;
  }
  return __uint_as_float(bits);
}

__device__ __forceinline__ int32_t sum_of_warp(int32_t value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

__device__ __forceinline__ uint32_t smallest_of_warp(uint32_t value) {
#if defined(__CUDACC__)
  return __reduce_min_sync(kAllLanes, value);
#else
  for (int step = 16; step > 0; step /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, value, step);
    value = other < value ? other : value;
  }
  return value;
#endif
}

}  // namespace phalanx::kernels::cuda
