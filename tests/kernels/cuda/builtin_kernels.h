// Kernels that call one CUDA builtin each and write what it gave. Compiled by the C++ compiler for
// the emulated device (builtins_test.cpp) and by nvcc (kernel_compilation.cu).
#pragma once

#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda::test {

__device__ __forceinline__ uint32_t thread_in_block() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
__device__ __forceinline__ uint32_t threads_per_block() {
  return blockDim.x * blockDim.y * blockDim.z;
}

/// records [block][thread][12]: thread, block, block dim, grid dim
template <typename Word>
__global__ void record_identity(Word* records) {
  const uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  Word* record = records + (block * threads_per_block() + thread_in_block()) * 12;
  const uint32_t words[12] = {threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x,
                              blockIdx.y,  blockIdx.z,  blockDim.x,  blockDim.y,
                              blockDim.z,  gridDim.x,   gridDim.y,   gridDim.z};
  for (int i = 0; i < 12; ++i) record[i] = words[i];
}

/// values [threads] reversed through shared memory; needs its barrier.
template <bool kBarrier>
__global__ void reverse_block(float* values) {
  float* shared = shared_memory<float>();
  const uint32_t thread = thread_in_block();
  shared[thread] = values[thread];
  if constexpr (kBarrier) __syncthreads();
  values[thread] = shared[threads_per_block() - 1 - thread];
}

/// results [rounds][threads][3]: or, and, count of (thread + round) % modulus == 0. Threads of
/// which the last round has passed return.
template <typename Int>
__global__ void vote_in_block(const Int* rounds_of_thread, int modulus, int max_rounds,
                              Int* results) {
  const auto thread = static_cast<int>(thread_in_block());
  for (int round = 0; round < max_rounds; ++round) {
    if (round == rounds_of_thread[thread]) return;
    const int holds = (thread + round) % modulus == 0 ? 1 : 0;
    Int* result = results + (static_cast<size_t>(round) * threads_per_block() + thread) * 3;
    result[0] = __syncthreads_or(holds);
    result[1] = __syncthreads_and(holds);
    result[2] = __syncthreads_count(holds);
  }
}

/// results [threads][4]: indexed, up, down, xor with the same argument.
template <typename T>
__global__ void shuffle_warps(const T* values, int argument, int width, T* results) {
  const uint32_t thread = thread_in_block();
  const T value = values[thread];
  const auto delta = static_cast<unsigned int>(argument);
  T* result = results + thread * 4;
  result[0] = __shfl_sync(0xffffffffU, value, argument, width);
  result[1] = __shfl_up_sync(0xffffffffU, value, delta, width);
  result[2] = __shfl_down_sync(0xffffffffU, value, delta, width);
  result[3] = __shfl_xor_sync(0xffffffffU, value, argument, width);
}

/// Even and odd lanes shuffle and vote apart, in a branch each. results [threads][2].
template <typename Word>
__global__ void diverge(const Word* values, Word* results) {
  const uint32_t thread = thread_in_block();
  Word* result = results + thread * 2;
  if (thread % 2 == 0) {
    result[0] = __shfl_xor_sync(0x55555555U, values[thread], 2);
    result[1] = __ballot_sync(0x55555555U, values[thread] % 3 == 0);
    __syncwarp(0x55555555U);
  } else {
    __syncwarp(0xaaaaaaaaU);
    result[1] = __ballot_sync(0xaaaaaaaaU, values[thread] % 3 == 0);
    result[0] = __shfl_xor_sync(0xaaaaaaaaU, values[thread], 2);
  }
}

/// Threads from `exit_from` on return; the others vote. results [threads][3]: ballot, any, all.
template <typename Word>
__global__ void vote_in_warps(const Word* predicates, uint32_t exit_from, Word* results) {
  const uint32_t thread = thread_in_block();
  if (thread >= exit_from) return;
  const int predicate = predicates[thread] != 0 ? 1 : 0;
  Word* result = results + thread * 3;
  result[0] = __ballot_sync(0xffffffffU, predicate);
  result[1] = static_cast<Word>(__any_sync(0xffffffffU, predicate));
  result[2] = static_cast<Word>(__all_sync(0xffffffffU, predicate));
}

/// Each warp's lanes hand a value to their neighbour through shared memory under __syncwarp.
template <typename Word>
__global__ void rotate_warps(Word* values) {
  Word* shared = shared_memory<Word>();
  const uint32_t thread = thread_in_block();
  shared[thread] = values[thread];
  __syncwarp();
  values[thread] = shared[thread / 32 * 32 + (thread + 1) % 32];
}

/// words [10]: sums, extremes, ... of values 0 .. threads * blocks - 1; floats [2] likewise.
template <typename Word>
__global__ void use_atomics(Word* words, int* integers, unsigned long long* wide, float* floats) {
  const uint32_t id = blockIdx.x * threads_per_block() + thread_in_block();
  atomicAdd(&words[0], id);
  atomicMax(&words[1], id);
  atomicMin(&words[2], id);
  atomicOr(&words[3], 1U << id % 32);
  atomicExch(&words[4], 7U);
  for (Word before = atomicAdd(&words[5], 0U), seen = 0;;
       before = seen) {  // a sum made of compare-and-swap
    seen = atomicCAS(&words[5], before, before + id);
    if (seen == before) break;
  }
  const Word ticket = atomicAdd(&words[6], 1U);
  if (ticket == gridDim.x * threads_per_block() - 1) words[7] = 1;  // the last one
  atomicAdd(&integers[0], -static_cast<int>(id));
  atomicMax(&integers[1], -static_cast<int>(id) - 5);
  atomicMin(&integers[2], -static_cast<int>(id));
  atomicAdd(&wide[0], (1ULL << 40) + id);
  atomicAdd(&floats[0], 0.5F);
  atomicExch(&floats[1], 2.5F);
  __threadfence_block();
  __threadfence();
  __threadfence_system();
}

/// results [threads][20] of words a, b and c.
template <typename Word>
__global__ void compute_words(const Word* a, const Word* b, const Word* c, Word* results) {
  const uint32_t i = thread_in_block();
  Word* result = results + i * 20;
  const auto signed_a = static_cast<int>(a[i]);
  const auto signed_b = static_cast<int>(b[i]);
  const auto signed_c = static_cast<int>(c[i]);
  result[0] = static_cast<Word>(__dp4a(signed_a, signed_b, signed_c));
  result[1] = __dp4a(a[i], b[i], c[i]);
  result[2] = byte_permute(a[i], b[i], c[i]);
  result[3] = static_cast<Word>(__popc(a[i]));
  result[4] = static_cast<Word>(__clz(signed_a));
  result[5] = static_cast<Word>(__ffs(signed_a));
  result[6] = __umulhi(a[i], b[i]);
  result[7] = __float_as_uint(__uint_as_float(a[i]));
  result[8] = static_cast<Word>(__float_as_int(__int_as_float(signed_a)));
  result[9] = static_cast<Word>(min(signed_a, signed_b));
  result[10] = max(a[i], b[i]);
  result[11] = __ldg(&c[i]);
  result[12] = __float_as_uint(__int2float_rn(signed_a));
  result[13] = static_cast<Word>(warpSize);
  result[14] = static_cast<Word>(__float2int_rn(static_cast<float>(signed_a) * 1.5F));
  result[15] = static_cast<Word>(__float2int_rn(static_cast<float>(signed_a % 64) * 0.5F));
  result[16] = static_cast<Word>(__float2int_rn(__uint_as_float(0x7fc00000U)));
  result[17] = result[18] = result[19] = 0;
}

/// results [threads][16] of a and b > 0, and c.
template <typename Float>
__global__ void compute_floats(const Float* a, const Float* b, const Float* c, Float* results) {
  const uint32_t i = thread_in_block();
  Float* result = results + i * 16;
  result[0] = __fmaf_rn(a[i], b[i], c[i]);
  result[1] = fmaf(a[i], b[i], c[i]);
  result[2] = __fadd_rn(a[i], c[i]);
  result[3] = __fsub_rn(a[i], c[i]);
  result[4] = __fmul_rn(a[i], c[i]);
  result[5] = __fdiv_rn(c[i], a[i]);
  result[6] = __fsqrt_rn(a[i]);
  result[7] = __frcp_rn(a[i]);
  result[8] = __saturatef(c[i]);
  result[9] = fminf(a[i], c[i]) + fmaxf(b[i], c[i]) + fabsf(c[i]);
  result[10] = rsqrtf(a[i]);  // from here on approximate on hardware
  result[11] = __expf(c[i]);
  result[12] = __logf(a[i]);
  result[13] = __fdividef(c[i], b[i]);
  result[14] = expf(c[i]) + logf(b[i]) + tanhf(c[i]);
  result[15] = exp2f(c[i]) + sinf(a[i]) + cosf(a[i]);
}

/// Every bf16 and e4m3 there and back; blocks of any size cover `count`.
template <typename Word>
__global__ void convert_formats(const Word* bits, uint32_t count, uint16_t* to_bf16,
                                uint8_t* to_e4m3, float* from_bf16, float* from_e4m3,
                                uint32_t* pairs) {
  const uint32_t i = blockIdx.x * threads_per_block() + thread_in_block();
  if (i >= count) return;
  const float value = __uint_as_float(bits[i]);
  to_bf16[i] = f32_to_bf16(value);
  to_e4m3[i] = f32_to_e4m3(value);
  from_bf16[i] = bf16_to_f32(static_cast<uint16_t>(bits[i]));
  from_e4m3[i] = e4m3_to_f32(static_cast<uint8_t>(bits[i]));
  const float2 pair = bf16x2_to_f32x2(f32x2_to_bf16x2(value, -value));
  pairs[i] = f32x2_to_bf16x2(pair.x, pair.y);
}

/// Four codes of a word as two pairs of f16. One block.
template <typename Word>
__global__ void widen_codes(const Word* codes, uint32_t count, Word* halves) {
  const uint32_t i = threadIdx.x;
  if (i < count) e4m3x4_to_f16x2(codes[i], halves[2 * i], halves[2 * i + 1]);
}

}  // namespace phalanx::kernels::cuda::test
