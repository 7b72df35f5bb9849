// What lanes of a warp compute together on the emulated device: shuffles, votes, and the matrix
// instructions with the fragment layouts of the PTX ISA. Called by the emulated builtins and
// wrappers.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "kernels/cuda/emulator/kernel_thread.h"

namespace phalanx::kernels::cuda::emulator {

// ---- shuffles

struct ShuffleOperand {
  uint64_t value;   ///< in: the lane's; out: the source lane's, kPoison if that lane is absent
  uint32_t source;  ///< 0..31
};
void complete_shuffle(void* const operands[32], uint32_t present);

/// One object a type, so that lanes that shuffle different types do not meet.
template <typename T>
inline constexpr WarpFunction kShuffleIndexed{"__shfl_sync", complete_shuffle, true, false};
template <typename T>
inline constexpr WarpFunction kShuffleUp{"__shfl_up_sync", complete_shuffle, true, false};
template <typename T>
inline constexpr WarpFunction kShuffleDown{"__shfl_down_sync", complete_shuffle, true, false};
template <typename T>
inline constexpr WarpFunction kShuffleXor{"__shfl_xor_sync", complete_shuffle, true, false};

/// The source lane of each shuffle. Source: PTX ISA, "shfl.sync".
uint32_t indexed_source(uint32_t lane, uint32_t index, uint32_t width);
uint32_t up_source(uint32_t lane, uint32_t delta, uint32_t width);
uint32_t down_source(uint32_t lane, uint32_t delta, uint32_t width);
/// A lane of an earlier segment may be read, one of a later may not.
uint32_t xor_source(uint32_t lane, uint32_t lane_mask, uint32_t width);

/// Faults unless width is 1, 2, 4, 8, 16 or 32.
void require_shuffle_width(int width, const WarpFunction& function, const Place& place);

template <typename T>
T shuffle(const WarpFunction& function, uint32_t mask, T value, uint32_t source,
          const Place& place) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  ShuffleOperand operand{0, source};
  std::memcpy(&operand.value, &value, sizeof(T));
  warp_call(mask, function, &operand, place);
  T result;
  std::memcpy(&result, &operand.value, sizeof(T));
  return result;
}

// ---- votes; lanes that have returned count as absent

/// The lanes of the mask whose predicate holds.
uint32_t ballot(uint32_t mask, bool predicate, const Place& place);
bool any_of(uint32_t mask, bool predicate, const Place& place);
bool all_of(uint32_t mask, bool predicate, const Place& place);
void sync_warp(uint32_t mask, const Place& place);

// ---- matrix instructions: all 32 lanes

/// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: lane i gives the address of row i % 8 of
/// matrix i / 8. Result j of a lane: elements (lane / 4, 2 * (lane % 4)) and the next one of matrix
/// j, the first in the low half; transposed: of the transpose of matrix j.
void load_matrices_x4(uint32_t (&fragment)[4], const void* row, bool transposed);

/// d = a * b + c of m16n8k16, bf16 into f32. Summed as ((c + a0*b0) + a1*b1) + ..., each sum
/// rounded to f32, k ascending. (Hardware rounds otherwise: compare with a tolerance.)
void multiply_m16n8k16_bf16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void multiply_m16n8k16_f16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

/// d = a * b + c of m16n8k32, s8 into s32; sums wrap.
void multiply_m16n8k32_s8(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

}  // namespace phalanx::kernels::cuda::emulator
