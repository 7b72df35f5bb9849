// What differs between weight formats inside the matrix-product kernels, and what all kernels
// share: operands, group values and their order, the tree of lanes, bringing activations to shared
// memory. Included by linear_small_kernels.h and linear_large_kernels.h.
//
// A format says how a chunk becomes operand a, what a group's sum is (`Sum`, by mma from 0 over its
// steps, `kProducts` instructions each), what of it is kept (`Value`), and how values are added in
// ascending order (`add`). A further format is a further struct here and a packing in
// device_matrix.cpp.
#pragma once

#include <cstdint>

#include "kernels/cuda/linear_call.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// A step is one instruction, whose operand b is the activations' words as they are.
struct OneProduct {
  static constexpr int kProducts = 1;
  static __device__ __forceinline__ void columns(const uint2& words, int /*product*/,
                                                 uint32_t (&b)[2]) {
    b[0] = words.x;
    b[1] = words.y;
  }
};

/// Of bf16: a span's sum, added as it is.
struct Bf16Format : OneProduct {
  using Sum = float;
  using Value = float;
  static constexpr bool kQuantized = false;
  static constexpr bool kIntegers = false;
  static constexpr int kChunkSteps = 1;

  static __device__ __forceinline__ void operand(const uint4& chunk, int /*step*/, int /*product*/,
                                                 uint32_t (&a)[4]) {
    a[0] = chunk.x;
    a[1] = chunk.y;
    a[2] = chunk.z;
    a[3] = chunk.w;
  }
  static __device__ __forceinline__ void multiply(Sum (&sums)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    mma_m16n8k16_bf16(sums, a, b);
  }
  static __device__ __forceinline__ Value value(Sum sum, float /*scale*/, int32_t /*correction*/) {
    return sum;
  }
  static __device__ __forceinline__ void hold(Sum sum, Value& value) { value = sum; }
  static __device__ __forceinline__ float add(float s, Value value) { return s + value; }
};

/// Of the integer formats: the exact dot product and the product of its two scales.
struct S8Products : OneProduct {
  using Sum = int32_t;
  using Value = float2;
  static constexpr bool kQuantized = true;
  static constexpr bool kIntegers = true;

  static __device__ __forceinline__ void multiply(Sum (&sums)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    mma_m16n8k32_s8(sums, a, b);
  }
  /// A sum on its way to be made a value: bits in the first half.
  static __device__ __forceinline__ void hold(Sum sum, Value& value) {
    value.x = __int_as_float(sum);
  }
  static __device__ __forceinline__ Sum sum_of(Value held) { return __float_as_int(held.x); }
  static __device__ __forceinline__ float add(float s, Value value) {
    return __fmaf_rn(value.x, value.y, s);
  }
};

struct W8Format : S8Products {
  static constexpr int kChunkSteps = 1;
  static constexpr int32_t kDefaultZero = 128;
  static constexpr int32_t kSumUnit = 1;  ///< the sum of a product of 1

  static __device__ __forceinline__ void operand(const uint4& chunk, int /*step*/, int /*product*/,
                                                 uint32_t (&a)[4]) {
    a[0] = chunk.x;
    a[1] = chunk.y;
    a[2] = chunk.z;
    a[3] = chunk.w;
  }
  /// correction: (zero - kDefaultZero) * sum of the activation's codes.
  static __device__ __forceinline__ Value value(Sum sum, float scale, int32_t correction) {
    return make_float2(__int2float_rn(sum - correction), scale);
  }
};

/// A nibble in the high half of a byte is 16 times its signed code: one instruction a word, and the
/// sums are shifted back once a group.
struct W4Format : S8Products {
  static constexpr int kChunkSteps = 2;
  static constexpr int32_t kDefaultZero = 8;
  static constexpr int32_t kSumUnit = 16;

  static __device__ __forceinline__ void operand(const uint4& chunk, int step, int /*product*/,
                                                 uint32_t (&a)[4]) {
    constexpr uint32_t kHighNibbles = 0xf0f0f0f0U;
    const int shift = step == 0 ? 4 : 0;
    a[0] = (chunk.x << shift) & kHighNibbles;
    a[1] = (chunk.y << shift) & kHighNibbles;
    a[2] = (chunk.z << shift) & kHighNibbles;
    a[3] = (chunk.w << shift) & kHighNibbles;
  }
  static __device__ __forceinline__ Value value(Sum sum, float scale, int32_t correction) {
    return make_float2(__int2float_rn((sum >> 4) - correction), scale);
  }
};

/// e4m3 by e4m3, both widened to f16 in registers, where they are exact: a step is two instructions
/// of 16 columns, of the first four and the last four of each member's eight bytes. A group's sum
/// is kept with the product of its scales, as integers' are.
///
/// Conversions a warp and step: 8 a tile, 4 a column of tokens. With 4 x 4 of them 48, at half a
/// warp a cycle 96 cycles, beside 32 products of at least 4.
///
/// mma.m16n8k32 takes e4m3 itself from sm_89 on, at twice the rate and without conversions. But on
/// Hopper its sums are not f32: what is added is aligned to the largest and cut to about 14 bits
/// (arXiv 2412.19437, 3.3.2), an error of some 6e-5 of the largest product that grows with K unless
/// sums are taken out every few instructions. Sums of f16 products keep f32's 24 bits. Few rows
/// wait for memory either way.
struct Fp8Format {
  using Sum = float;
  using Value = float2;
  static constexpr bool kQuantized = true;
  static constexpr bool kIntegers = false;
  static constexpr int kChunkSteps = 1;
  static constexpr int kProducts = 2;

  static __device__ __forceinline__ void operand(const uint4& chunk, int /*step*/, int product,
                                                 uint32_t (&a)[4]) {
    e4m3x4_to_f16x2(product == 0 ? chunk.x : chunk.z, a[0], a[2]);
    e4m3x4_to_f16x2(product == 0 ? chunk.y : chunk.w, a[1], a[3]);
  }
  static __device__ __forceinline__ void columns(const uint2& words, int product,
                                                 uint32_t (&b)[2]) {
    e4m3x4_to_f16x2(product == 0 ? words.x : words.y, b[0], b[1]);
  }
  static __device__ __forceinline__ void multiply(Sum (&sums)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    mma_m16n8k16_f16(sums, a, b);
  }
  static __device__ __forceinline__ void hold(Sum sum, Value& value) { value.x = sum; }
  static __device__ __forceinline__ Sum sum_of(Value held) { return held.x; }
  static __device__ __forceinline__ Value value(Sum sum, float scale, int32_t /*correction*/) {
    return make_float2(sum, scale);
  }
  static __device__ __forceinline__ float add(float s, Value value) {
    return __fmaf_rn(value.x, value.y, s);
  }
};

/// Scale `index` of an array in global or shared memory.
__device__ __forceinline__ float load_scale(const std::byte* scales, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return reinterpret_cast<const float*>(scales)[index];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(scales)[index];
  return dtype == DType::kBf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

/// The first step of a group, counted over all lanes; of num_groups: num_steps. Quantized lanes are
/// whole groups, which spares the inner loops divisions.
template <typename Format>
__device__ __forceinline__ int first_step_of(const MatrixGeometry& shape, int group) {
  if constexpr (Format::kQuantized) return group * shape.group_steps;
  return group / shape.lane_groups * shape.lane_steps +
         group % shape.lane_groups * shape.group_steps;
}
/// The steps of a group: the last one of a bf16 lane may have fewer.
template <typename Format>
__device__ __forceinline__ int steps_of(const MatrixGeometry& shape, int group) {
  if constexpr (Format::kQuantized) return shape.group_steps;
  return min(shape.group_steps, shape.lane_steps - group % shape.lane_groups * shape.group_steps);
}

/// ((l0 + l1) + (l2 + l3)) + ... of lanes that come in ascending order: a binary counter of sums,
/// in registers.
class LaneTree {
 public:
  __device__ __forceinline__ void add(float lane) {
    float sum = lane;
    bool carried = true;
    PHALANX_UNROLL
    for (int level = 0; level < kLevels; ++level) {
      if (!carried) continue;
      const bool full = (count_ >> level & 1) != 0;
      if (full) {
        sum = sums_[level] + sum;
      } else {
        sums_[level] = sum;
      }
      carried = full;
    }
    ++count_;
  }
  /// After all L lanes, a power of two.
  __device__ __forceinline__ float total() const {
    float sum = sums_[0];
    PHALANX_UNROLL
    for (int level = 1; level < kLevels; ++level) {
      if ((count_ >> level & 1) != 0) sum = sums_[level];
    }
    return sum;
  }

 private:
  static constexpr int kLevels = 4;
  static_assert(1 << (kLevels - 1) == kMostMatrixLanes);
  float sums_[kLevels] = {};
  int count_ = 0;
};

/// Brings the 16 bytes of half `half` of step `step` of an activation row to shared memory, zeros
/// where the step is padded. By an asynchronous copy where rows allow it.
template <typename Format>
__device__ __forceinline__ void copy_step_half(void* shared, const LinearCall& a, int64_t row,
                                               int step, int half) {
  const std::byte* from = a.x.codes + row * a.x.row_bytes;
  if (a.x.whole_units) {
    cp_async_16(shared, from + static_cast<int64_t>(step) * kStepBytes + half * 16);
    return;
  }
  constexpr int kCodeBytes = Format::kQuantized ? 1 : 2;
  const MatrixGeometry& shape = a.w.shape;
  const int lane_step = step % shape.lane_steps;
  const int in_group = lane_step % shape.group_steps * (kStepBytes / kCodeBytes);
  const int in_lane = lane_step / shape.group_steps * shape.group_cols + in_group;
  const int cols = min(shape.group_cols - in_group, shape.lane_cols - in_lane);
  const int64_t k = static_cast<int64_t>(step / shape.lane_steps) * shape.lane_cols + in_lane;
  const auto* bytes = reinterpret_cast<const uint8_t*>(from) + k * kCodeBytes;
  for (int i = 0; i < 16; ++i) {
    const int byte = half * 16 + i;
    static_cast<uint8_t*>(shared)[i] = byte < cols * kCodeBytes ? bytes[byte] : uint8_t{0};
  }
}

}  // namespace phalanx::kernels::cuda
