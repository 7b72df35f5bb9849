// Kernels of the peer group's tests: a stand-in for the linear that writes a rank's part, after a
// delay. Included by tests of the emulated device and, to see that it compiles, by nvcc.
#pragma once

#include <cstdint>

#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda::test {

/// splitmix32: what rank, call and place make of an element, alike on device and host.
__host__ __device__ inline uint32_t mixed(uint32_t x) {
  x += 0x9e3779b9U;
  x = (x ^ x >> 16) * 0x21f0aaadU;
  x = (x ^ x >> 15) * 0x735a2d97U;
  return x ^ x >> 15;
}

/// About -4 to 4, with all bits of the fraction in use.
__host__ __device__ inline float part_value(uint32_t seed, uint32_t element) {
  return static_cast<float>(static_cast<int32_t>(mixed(seed ^ mixed(element)))) * 0x1p-29F;
}

/// part[0, count) = part_value(seed, .), once each block has looked away for `delay` turns.
template <typename Value = float>
__global__ void write_part(Value* part, uint32_t count, uint32_t seed, uint32_t delay) {
  for (uint32_t i = 0; i < delay; ++i) __nanosleep(100);
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    part[i] = part_value(seed, i);
}

}  // namespace phalanx::kernels::cuda::test
