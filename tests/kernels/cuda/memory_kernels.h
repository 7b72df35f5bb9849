// Kernels around device_memory.h and tensor_core.h: asynchronous copies, flags between blocks,
// fragments. Compiled for the emulated device and by nvcc. kWait and the like leave a step out: the
// planted bugs that the emulator must show.
#pragma once

#include <cstring>

#include "kernels/cuda/simt.h"
#include "tests/kernels/cuda/builtin_kernels.h"

namespace phalanx::kernels::cuda::test {

/// output [tiles][threads] = input, in tiles that are copied two ahead. Threads write what a
/// neighbour copied. Shared: 3 tiles.
template <bool kWait, bool kBarrier>
__global__ void copy_pipelined(const uint4* input, int num_tiles, uint4* output) {
  constexpr int kStages = 3;
  uint4* shared = shared_memory<uint4>();
  const uint32_t threads = blockDim.x;
  const auto start_copy = [&](int tile) {
    if (tile < num_tiles) {
      cp_async_16(&shared[tile % kStages * threads + threadIdx.x],
                  &input[tile * threads + threadIdx.x]);
    }
    cp_async_commit();
  };
  start_copy(0);
  start_copy(1);
  for (int tile = 0; tile < num_tiles; ++tile) {
    start_copy(tile + 2);
    if constexpr (kWait) cp_async_wait<2>();
    if constexpr (kBarrier) __syncthreads();
    const uint32_t neighbour = (threadIdx.x + 1) % threads;
    store_streaming(&output[tile * threads + neighbour],
                    shared[tile % kStages * threads + neighbour]);
    if constexpr (kBarrier) __syncthreads();
  }
}

/// output [threads]: input, or zeros from `valid` on; uncommitted copies and wait_all.
template <typename Vector>
__global__ void copy_or_zero(const Vector* input, uint32_t valid, Vector* output) {
  auto* shared = shared_memory<Vector>();
  const bool is_valid = threadIdx.x < valid;
  cp_async_16_or_zero(&shared[threadIdx.x], is_valid ? &input[threadIdx.x] : input, is_valid);
  cp_async_wait_all();
  output[threadIdx.x] = shared[threadIdx.x];
}

template <typename Vector>
__global__ void copy_streaming(const Vector* input, Vector* output) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  store_streaming(&output[i], load_streaming(&input[i]));
}

/// Four 8x8 matrices, row-major in `matrices` [4][8][8]. fragments [32][8]: plain, transposed.
template <typename Element>
__global__ void load_fragments(const Element* matrices, uint32_t* fragments) {
  auto* shared = shared_memory<Element>();
  for (int i = 0; i < 8; ++i) shared[threadIdx.x * 8 + i] = matrices[threadIdx.x * 8 + i];
  __syncthreads();
  uint32_t plain[4];
  uint32_t transposed[4];
  ldmatrix_x4(plain, &shared[threadIdx.x * 8]);
  ldmatrix_x4_trans(transposed, &shared[threadIdx.x * 8]);
  for (int i = 0; i < 4; ++i) {
    fragments[threadIdx.x * 8 + i] = plain[i];
    fragments[threadIdx.x * 8 + 4 + i] = transposed[i];
  }
}

/// c [16][8] f32 += a [16][16] b [16][8], bf16 or f16, row-major: as a product kernel would do it.
/// One warp. Shared: a, b.
template <typename Element, bool kIsF16>
__global__ void multiply_halves(const Element* a, const Element* b, float* c) {
  auto* shared_a = shared_memory<Element>();
  Element* shared_b = shared_a + 16 * 16;
  const uint32_t lane = threadIdx.x;
  for (uint32_t i = lane; i < 16 * 16; i += 32) shared_a[i] = a[i];
  for (uint32_t i = lane; i < 16 * 8; i += 32) shared_b[i] = b[i];
  __syncthreads();
  uint32_t fragment_a[4];
  uint32_t fragment_b[4];  // the second half of them is the first again
  ldmatrix_x4(fragment_a, &shared_a[lane % 16 * 16 + lane / 16 * 8]);
  ldmatrix_x4_trans(fragment_b, &shared_b[lane % 16 * 8]);
  const uint32_t group = lane / 4;
  const uint32_t member = lane % 4;
  float sums[4];
  const auto place = [&](int i) { return (group + i / 2 * 8) * 8 + member * 2 + i % 2; };
  for (int i = 0; i < 4; ++i) sums[i] = c[place(i)];
  const uint32_t columns[2] = {fragment_b[0], fragment_b[1]};
  if constexpr (kIsF16) {
    mma_m16n8k16_f16(sums, fragment_a, columns);
  } else {
    mma_m16n8k16_bf16(sums, fragment_a, columns);
  }
  for (int i = 0; i < 4; ++i) c[place(i)] = sums[i];
}

/// c [16][8] s32 += a [16][32] b, int8; a row-major, b given as columns [8][32]. One warp.
template <typename Sum>
__global__ void multiply_s8(const int8_t* a, const int8_t* b, Sum* c) {
  const uint32_t group = threadIdx.x / 4;
  const uint32_t member = threadIdx.x % 4;
  const auto word = [](const int8_t* four) {
    uint32_t bits = 0;
    memcpy(&bits, four, sizeof(bits));
    return bits;
  };
  uint32_t fragment_a[4];
  uint32_t fragment_b[2];
  for (uint32_t i = 0; i < 4; ++i)
    fragment_a[i] = word(&a[(group + i % 2 * 8) * 32 + i / 2 * 16 + member * 4]);
  for (uint32_t i = 0; i < 2; ++i) fragment_b[i] = word(&b[group * 32 + i * 16 + member * 4]);
  Sum sums[4];
  const auto place = [&](int i) { return (group + i / 2 * 8) * 8 + member * 2 + i % 2; };
  for (int i = 0; i < 4; ++i) sums[i] = c[place(i)];
  mma_m16n8k32_s8(sums, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) c[place(i)] = sums[i];
}

/// A one-shot all-reduce over `ranks` ranks with blocks_per_rank blocks each, in one grid. buffers
/// [ranks][count] are filled here, since inputs that are ready before the launch would hide a
/// missing wait; flags [blocks_per_rank][ranks], zero. outputs [ranks][count].
template <bool kWait>
__global__ void all_reduce(float* buffers, uint32_t* flags, float* outputs, uint32_t ranks,
                           uint32_t count) {
  const uint32_t rank = blockIdx.x % ranks;
  const uint32_t part = blockIdx.x / ranks;
  const uint32_t parts = gridDim.x / ranks;
  const uint32_t begin = count * part / parts;
  const uint32_t end = count * (part + 1) / parts;
  for (uint32_t i = begin + threadIdx.x; i < end; i += blockDim.x)
    buffers[rank * count + i] = static_cast<float>(i % 97) + 100.0F * static_cast<float>(rank);
  __syncthreads();
  if (threadIdx.x == 0) store_release_system(&flags[part * ranks + rank], 1);
  if (kWait && threadIdx.x < ranks) {
    while (load_acquire_system(&flags[part * ranks + threadIdx.x]) == 0) __nanosleep(20);
  }
  __syncthreads();
  for (uint32_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    float sum = 0;
    for (uint32_t r = 0; r < ranks; ++r) sum += buffers[r * count + i];
    outputs[rank * count + i] = sum;
  }
}

}  // namespace phalanx::kernels::cuda::test
