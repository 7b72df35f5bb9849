// Warp-wide matrix instructions (mma.sync, ldmatrix), with fragments as the PTX ISA lays them out.
// All 32 lanes call together. Included through kernels/cuda/simt.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_memory.h"

namespace phalanx::kernels::cuda {

/// Four 8x8 matrices of 16-bit elements from shared memory: lane i gives the address of row i % 8
/// of matrix i / 8 (16 bytes, aligned to 16). Then register j holds elements (lane / 4, 2 * (lane %
/// 4)) and the one right of it of matrix j, the first in the low half. With matrices (rows 0-7, k
/// 0-7), (rows 8-15, k 0-7), (rows 0-7, k 8-15), (rows 8-15, k 8-15) of a row-major A that is
/// operand a of mma_m16n8k16_bf16.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&fragment)[4], const void* shared_row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(shared_address(shared_row))
               : "memory");
#else
  emulator::load_matrices_x4(fragment, shared_row, false);
#endif
}

/// The same of the transposed matrices: elements (2 * (lane % 4), lane / 4) and the one below it.
/// Of a row-major B [k][n], matrices (k 0-7) and (k 8-15) give operand b.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&fragment)[4], const void* shared_row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(shared_address(shared_row))
               : "memory");
#else
  emulator::load_matrices_x4(fragment, shared_row, true);
#endif
}

/// sums += a b, with a [16][16] and b [16][8] bf16, sums [16][8] f32. With group = lane / 4, member
/// = lane % 4:
///   a     register r: row group + 8 * (r % 2), k = 8 * (r / 2) + 2 * member, + 1 (low half first)
///   b     register r: column group, k = 8 * r + 2 * member, + 1
///   sums  i: row group + 8 * (i / 2), column 2 * member + i % 2
/// Order of summation: hardware's own; emulated, k ascending from sums, each sum rounded.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&sums)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulator::multiply_m16n8k16_bf16(sums, a, b);
#endif
}

/// The same of f16. Products are exact.
__device__ __forceinline__ void mma_m16n8k16_f16(float (&sums)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulator::multiply_m16n8k16_f16(sums, a, b);
#endif
}

/// sums += a b, with a [16][32] and b [32][8] int8, sums [16][8] int32, wrapping:
///   a     register r: row group + 8 * (r % 2), k = 16 * (r / 2) + 4 * member, ... + 3 (low byte
///   first) b     register r: column group, k = 16 * r + 4 * member, ... + 3 sums  as above
__device__ __forceinline__ void mma_m16n8k32_s8(int32_t (&sums)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulator::multiply_m16n8k32_s8(sums, a, b);
#endif
}

}  // namespace phalanx::kernels::cuda
