// Kernels that only move bytes: the ceilings of bandwidth. Launched by cuda_limits.
#pragma once

#include <cstdint>

#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

inline constexpr int kStreamThreads = 512;
/// Loads of 16 bytes that a thread has in flight: 2048 threads of a multiprocessor ask for 256 KiB
/// at a time, and 3.35 TB/s over 132 of them need some 25 KiB at 1 us.
inline constexpr int kStreamLoads = 8;

/// Reads data[0, num_units). `sink` is written if all words together are one certain value, which
/// the compiler cannot know.
template <typename Unit = uint4>
__global__ void __launch_bounds__(kStreamThreads)
    read_stream(const Unit* data, int64_t num_units, uint32_t* sink) {
  const int64_t block_units = int64_t{kStreamThreads} * kStreamLoads;
  uint32_t all = 0;
  for (int64_t first = blockIdx.x * block_units; first < num_units;
       first += gridDim.x * block_units) {
    Unit units[kStreamLoads];
    PHALANX_UNROLL
    for (int i = 0; i < kStreamLoads; ++i) {
      const int64_t unit = first + int64_t{i} * kStreamThreads + threadIdx.x;
      units[i] = load_streaming(data + (unit < num_units ? unit : 0));
    }
    PHALANX_UNROLL
    for (int i = 0; i < kStreamLoads; ++i) all ^= units[i].x ^ units[i].y ^ units[i].z ^ units[i].w;
  }
  if (all == 0x9e3779b9U) *sink = all;
}

/// to[0, num_units) = from[0, num_units).
template <typename Unit = uint4>
__global__ void __launch_bounds__(kStreamThreads)
    copy_stream(const Unit* from, Unit* to, int64_t num_units) {
  const int64_t block_units = int64_t{kStreamThreads} * kStreamLoads;
  for (int64_t first = blockIdx.x * block_units; first < num_units;
       first += gridDim.x * block_units) {
    Unit units[kStreamLoads];
    PHALANX_UNROLL
    for (int i = 0; i < kStreamLoads; ++i) {
      const int64_t unit = first + int64_t{i} * kStreamThreads + threadIdx.x;
      units[i] = load_streaming(from + (unit < num_units ? unit : 0));
    }
    PHALANX_UNROLL
    for (int i = 0; i < kStreamLoads; ++i) {
      const int64_t unit = first + int64_t{i} * kStreamThreads + threadIdx.x;
      if (unit < num_units) store_streaming(to + unit, units[i]);
    }
  }
}

/// words[0, num_words): random bits; as bf16 and as e4m3 numbers that are finite and below 2.
template <typename Word = uint32_t>
__global__ void __launch_bounds__(kStreamThreads)
    fill_random(Word* words, int64_t num_words, uint32_t seed) {
  for (int64_t i = int64_t{blockIdx.x} * kStreamThreads + threadIdx.x; i < num_words;
       i += int64_t{gridDim.x} * kStreamThreads) {
    uint32_t x = static_cast<uint32_t>(i) * 0x9e3779b9U + seed;
    x = (x ^ x >> 16) * 0x21f0aaadU;
    x = (x ^ x >> 15) * 0x735a2d97U;
    words[i] = (x ^ x >> 15) & 0xbfbfbfbfU;
  }
}

}  // namespace phalanx::kernels::cuda
