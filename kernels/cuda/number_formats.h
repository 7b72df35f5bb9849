// Number formats on the device: bf16 and e4m3 as bits, and moving bytes between words. The same
// bits under nvcc and emulated. Included through kernels/cuda/simt.h.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "kernels/cuda/emulator/builtins.h"
#include "runtime/base/dtype.h"
#endif

namespace phalanx::kernels::cuda {

__device__ __forceinline__ float bf16_to_f32(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

/// Round to nearest, ties to even; overflow becomes infinity; every NaN becomes 0x7fff.
__device__ __forceinline__ uint16_t f32_to_bf16(float value) {
#if defined(__CUDACC__)
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  return value != value ? uint16_t{0x7fff} : phalanx::f32_to_bf16(value);
#endif
}

/// Two of them, `low` in bits 0..15.
__device__ __forceinline__ uint32_t f32x2_to_bf16x2(float low, float high) {
#if defined(__CUDACC__)
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
#else
  return f32_to_bf16(low) | static_cast<uint32_t>(f32_to_bf16(high)) << 16;
#endif
}

__device__ __forceinline__ float2 bf16x2_to_f32x2(uint32_t bits) {
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000U));
}

/// Exact.
__device__ __forceinline__ float f16_to_f32(uint16_t bits) {
#if defined(__CUDACC__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  return phalanx::f16_to_f32(bits);
#endif
}

/// OCP e4m3fn: bias 7, no infinity, largest 448, NaN is s.1111.111. Exact.
__device__ __forceinline__ float e4m3_to_f32(uint8_t bits) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(bits)));
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<uint16_t>(halves)));
  return value;
#else
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80U) << 24;
  const uint32_t magnitude = bits & 0x7fU;
  if (magnitude == 0x7fU) return __uint_as_float(sign | 0x7fc00000U);
  if (magnitude >= 8)  // normal: the exponent's bias is 127 - 7 less
    return __uint_as_float(sign | ((magnitude << 20) + (120U << 23)));
  return __uint_as_float(sign | __float_as_uint(static_cast<float>(magnitude) * 0x1p-9F));
#endif
}

/// Round to nearest, ties to even; beyond 448 and infinity: 448 (saturating); NaN: 0x7f, whatever
/// its sign.
__device__ __forceinline__ uint8_t f32_to_e4m3(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0F), "f"(value));
  return value != value ? uint8_t{0x7f} : static_cast<uint8_t>(pair);
#else
  const uint32_t bits = __float_as_uint(value);
  const uint32_t sign = bits >> 24 & 0x80U;
  uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return 0x7f;
  if (magnitude >= 0x43e00000U) return static_cast<uint8_t>(sign | 0x7eU);  // 448
  if (magnitude < 0x3c800000U) {
    // Below 2^-6 steps are 2^-9, as they are between 2^14 and 2^15: adding 2^14 rounds.
    const float rounded = __fadd_rn(__uint_as_float(magnitude), 0x1p14F);
    return static_cast<uint8_t>(sign | (__float_as_uint(rounded) - __float_as_uint(0x1p14F)));
  }
  magnitude += 0x7ffffU + (magnitude >> 20 & 1U);  // to nearest, ties to even, in 3 bits
  return static_cast<uint8_t>(sign | ((magnitude >> 20) - (120U << 3)));
#endif
}

/// The four e4m3 codes of a word, none of which is NaN, as pairs of f16: bytes 0 and 1, and 2 and
/// 3, the lower one in the low half. Exact: f16 has all of e4m3's numbers, as normal ones.
__device__ __forceinline__ void e4m3x4_to_f16x2(uint32_t codes, uint32_t& first, uint32_t& last) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(first) : "h"(static_cast<uint16_t>(codes)));
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(last) : "h"(static_cast<uint16_t>(codes >> 16)));
#elif defined(__CUDACC__)
  // The exponent's field is one bit wider and its bias 8 more: shifted by a bit a number is 2^-8 of
  // what it was, a subnormal one too.
  const auto widened = [](uint32_t high_bytes) {
    const uint32_t small = (high_bytes >> 1 & 0x3f803f80U) | (high_bytes & 0x80008000U);
    constexpr uint32_t kTwoTo8 = 0x5c005c00U;
    uint32_t halves;
    asm("mul.f16x2 %0, %1, %2;" : "=r"(halves) : "r"(small), "r"(kTwoTo8));
    return halves;
  };
  first = widened(__byte_perm(codes, 0, 0x1404));
  last = widened(__byte_perm(codes, 0, 0x3424));
#else
  const auto half = [&](int byte) -> uint32_t {
    return phalanx::f32_to_f16(phalanx::e4m3_to_f32(static_cast<uint8_t>(codes >> (8 * byte))));
  };
  first = half(0) | half(1) << 16;
  last = half(2) | half(3) << 16;
#endif
}

/// Byte i of the result is byte (selector >> 4 * i) & 7 of high:low; other bits of the selector are
/// not looked at.
__device__ __forceinline__ uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
  return __byte_perm(low, high, selector & 0x7777U);
}

}  // namespace phalanx::kernels::cuda
