// Kernels with one mistake each, that the emulated device must find and name (faults_test.cpp);
// nvcc compiles them too, without a word.
#pragma once

#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda::test {

/// Thread `odd_one` waits for lanes that wait for it at the barrier.
template <typename Word>
__global__ void barrier_against_shuffle(Word odd_one, Word* result) {
  if (threadIdx.x == odd_one) *result = __shfl_sync(0xffffffffU, *result, 0);
  __syncthreads();
}

/// Half of the block waits at another barrier.
template <typename Word>
__global__ void barrier_in_branches(Word boundary) {
  if (threadIdx.x < boundary) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

/// Two barriers that mean different things.
template <typename Word>
__global__ void different_barriers(Word boundary, Word* result) {
  *result = static_cast<Word>(threadIdx.x < boundary ? __syncthreads_or(1) : __syncthreads_and(1));
}

/// Lane `odd_one` does not come to the shuffle of the others, and ends.
template <typename Word>
__global__ void exit_before_shuffle(Word odd_one, Word* result) {
  if (threadIdx.x == odd_one) return;
  result[threadIdx.x] = __shfl_down_sync(0xffffffffU, threadIdx.x, 1);
}

template <typename Word>
__global__ void wrong_mask(Word mask, Word* result) {
  result[threadIdx.x] = __ballot_sync(mask, 1);
}

template <typename Word>
__global__ void mixed_functions(Word* result) {
  result[threadIdx.x] = threadIdx.x < 16 ? __ballot_sync(0xffffffffU, 1)
                                         : static_cast<Word>(__any_sync(0xffffffffU, 1));
}

template <typename Word>
__global__ void wrong_shuffle_width(int width, Word* result) {
  result[threadIdx.x] = __shfl_sync(0xffffffffU, threadIdx.x, 0, width);
}

/// Writes `offset` words from the start of the shared memory.
template <typename Word>
__global__ void write_shared(int offset) {
  Word* shared = shared_memory<Word>();
  shared[offset + static_cast<int>(threadIdx.x)] = threadIdx.x;
}

/// Copies to and from `offset` bytes beyond the start.
template <typename Vector>
__global__ void copy_async_at(const unsigned char* input, int source_offset, int target_offset) {
  cp_async_16(shared_memory<unsigned char>() + target_offset, input + source_offset);
  cp_async_wait_all();
}

template <typename Word>
__global__ void load_fragments_at(int offset, Word* result) {
  uint32_t fragment[4];
  ldmatrix_x4(fragment, shared_memory<unsigned char>() + offset + threadIdx.x * 16);
  result[threadIdx.x] = fragment[0];
}

template <typename Word>
__global__ void multiply_in_part_of_warp(uint32_t lanes, Word* result) {
  if (threadIdx.x >= lanes) return;
  float sums[4] = {};
  mma_m16n8k16_bf16(sums, {0, 0, 0, 0}, {0, 0});
  result[threadIdx.x] = static_cast<Word>(sums[0]);
}

template <typename Vector>
__global__ void stream_at(unsigned char* data, int load_offset, int store_offset) {
  const uint4 value = load_streaming(reinterpret_cast<const Vector*>(data + load_offset));
  store_streaming(reinterpret_cast<Vector*>(data + store_offset), value);
}

/// Waits for a store that nobody makes.
template <typename Word>
__global__ void wait_for_ever(const Word* flag) {
  if (threadIdx.x == 3) {
    while (load_acquire_system(flag) == 0) {
    }
  }
  __syncthreads();
}

/// Each block waits until all have come.
template <typename Word>
__global__ void wait_for_all_blocks(Word* arrived) {
  if (threadIdx.x == 0) {
    atomicAdd(arrived, 1U);
    while (atomicAdd(arrived, 0U) < gridDim.x) {
    }
  }
  __syncthreads();
}

template <typename Word>
__global__ void trap_in(Word block, Word thread) {
  if (blockIdx.x == block && threadIdx.x == thread) __trap();
  __syncthreads();
}

}  // namespace phalanx::kernels::cuda::test
