// The matrix product of few rows (R <= 16): bound by the stream of weights. Launched by
// linear_launches.
//
// A block owns `tiles_per_block` tiles of 16 outputs for all rows; its warps share the groups of a
// tile: warp w takes units w, w + warps, ... Each group's sum comes from mma instructions and goes
// to shared memory; quantized, all threads then scale the sums; and one thread an output and row
// adds the values in ascending order, so that no bit depends on who computed them. K is walked in
// segments: as many groups as shared memory holds activations and values of; usually one. The next
// segment's activations arrive meanwhile.
//
// Bytes in flight: a warp has kSmallDepth chunks of 512 bytes under way, held in registers, before
// it waits for the activations and all along, over segments too: 8 warps and two blocks an SM make
// 8 * 2 * 8 * 512 = 64 KiB an SM. 3.35 TB/s over 132 SMs with 1 us from DRAM under load want 25
// KiB. With R > 8 the depth is 4 and a block has 16 warps: 32 KiB.
//
// Issue slots: an SM gets 512 bytes in 35 cycles at 1.75 GHz, that is 140 slots. Counted in the
// code compiled for sm_90a, a chunk of w4 with groups of 128 takes about 80 of them (two steps,
// half a group's end, half a unit's start), one of w8 about half, one of fp8 19 more than w8 (a
// second product, 12 conversions, shifts). Hence sums are stored as they are inside the walk, and
// scaled afterwards by all threads: in the walk few lanes of a product of one row would have
// anything to scale.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/linear_call.h"
#include "kernels/cuda/linear_formats.h"
#include "kernels/cuda/linear_gated.h"
#include "kernels/cuda/linear_small_plan.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// The tile that a block multiplies as its `tile_in_block`th; num_tiles or more: none.
template <bool kGated>
__device__ __forceinline__ int small_tile(const LinearCall& a, const SmallPlan& p,
                                          int tile_in_block) {
  const auto block = static_cast<int>(blockIdx.x);
  if constexpr (!kGated) return block * p.tiles_per_block + tile_in_block;
  const int pairs = p.tiles_per_block / 2;
  const int half = a.w.shape.num_tiles / 2;
  const int tile = block * pairs + tile_in_block % pairs;
  if (tile >= half) return a.w.shape.num_tiles;
  return tile_in_block < pairs ? tile : half + tile;
}

/// Starts bringing a segment's inputs to its stage; the caller commits. All threads together.
template <typename Format, bool kGated>
__device__ __forceinline__ void stage_segment(const LinearCall& a, const SmallPlan& p,
                                              int segment) {
  const MatrixGeometry& shape = a.w.shape;
  auto* stage = shared_memory<std::byte>() + segment % p.num_stages * p.stage_bytes;
  const int first_group = segment * p.segment_groups;
  const int num_groups = min(p.segment_groups, shape.num_groups - first_group);
  const int first_step = first_step_of<Format>(shape, first_group);
  const int halves = 2 * (first_step_of<Format>(shape, first_group + num_groups) - first_step);
  const auto thread = static_cast<int>(threadIdx.x);
  const auto num_threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < a.x.num_rows * halves; i += num_threads) {
    const int row = i / halves;
    const int half = i % halves;
    copy_step_half<Format>(stage + row * p.x_stride + half * 16, a, row, first_step + half / 2,
                           half % 2);
  }
  if constexpr (Format::kQuantized) {
    const int scale_bytes = a.w.scale_dtype == DType::kF32 ? 4 : 2;
    const int64_t index_of_group =
        static_cast<int64_t>(first_group) * kTileOutputs;  // in a tile's scales and zeros
    const int64_t per_tile = static_cast<int64_t>(shape.num_groups) * kTileOutputs;
    const int scale_units = num_groups * scale_bytes;  // of 16 bytes
    for (int i = thread; i < p.tiles_per_block * scale_units; i += num_threads) {
      const int tile_in_block = i / scale_units;
      const int tile = small_tile<kGated>(a, p, tile_in_block);
      if (tile >= shape.num_tiles) continue;
      cp_async_16(
          stage + p.scales_offset + tile_in_block * p.segment_groups * kTileOutputs * scale_bytes +
              i % scale_units * 16,
          a.w.scales + (tile * per_tile + index_of_group) * scale_bytes + i % scale_units * 16);
    }
    if (a.w.zeros != nullptr) {
      for (int i = thread; i < p.tiles_per_block * num_groups; i += num_threads) {
        const int tile_in_block = i / num_groups;
        const int tile = small_tile<kGated>(a, p, tile_in_block);
        if (tile >= shape.num_tiles) continue;
        cp_async_16(
            stage + p.zeros_offset + (tile_in_block * p.segment_groups + i % num_groups) * 16,
            a.w.zeros + tile * per_tile + index_of_group + i % num_groups * 16);
      }
    }
    for (int i = thread; i < a.x.num_rows * num_groups; i += num_threads) {
      const int row = i / num_groups;
      const int to = row * p.segment_groups + i % num_groups;
      const int64_t from =
          static_cast<int64_t>(row) * shape.num_groups + first_group + i % num_groups;
      reinterpret_cast<float*>(stage + p.x_scales_offset)[to] = a.x.scales[from];
      if (a.w.zeros != nullptr) {
        reinterpret_cast<int32_t*>(stage + p.x_sums_offset)[to] = a.x.sums[from];
      }
    }
  }
}

/// A walk over the chunks of a warp: those of its units one after another, `unit_turns` turns a
/// unit, of which a short unit leaves the last ones out.
template <typename Format>
struct ChunkWalk {
  int unit;
  int unit_stride;
  int turn;        ///< in the unit
  int num_chunks;  ///< of the unit; 0 or less beyond the last one

  /// Gives the unit's first chunk in its tile.
  __device__ __forceinline__ int start_unit(const MatrixGeometry& shape, const SmallPlan& p) {
    turn = 0;
    if constexpr (Format::kQuantized) {  // all units alike, but for a last half one
      const int first = unit * p.unit_chunks;
      num_chunks = min(p.unit_chunks, shape.num_chunks - first);
      return first;
    }
    num_chunks = unit < p.num_units ? steps_of<Format>(shape, unit) : 0;  // a unit is a span
    return first_step_of<Format>(shape, unit);
  }
  __device__ __forceinline__ bool present() const { return turn < num_chunks; }
};

/// One warp's product of its units: state that the unrolled walk keeps in registers.
template <typename Format, int kColumnTiles>
class SmallProduct {
 public:
  using Sum = typename Format::Sum;
  using Value = typename Format::Value;

  __device__ __forceinline__ SmallProduct(const LinearCall& a, const SmallPlan& p, int tile,
                                          int tile_in_block, int first_unit, int unit_stride)
      : a_(a),
        p_(p),
        tile_in_block_(tile_in_block),
        group_lane_(static_cast<int>(threadIdx.x) % 32 / 4),
        member_(static_cast<int>(threadIdx.x) % 4) {
    codes_ = reinterpret_cast<const uint4*>(a.w.codes) +
             static_cast<int64_t>(tile) * a.w.shape.num_chunks * 32 + threadIdx.x % 32;
    // A tile beyond the last one has no units.
    const int first = tile < a.w.shape.num_tiles ? first_unit : p.num_units;
    ahead_.unit = behind_.unit = first;
    ahead_.unit_stride = behind_.unit_stride = unit_stride;
    start_ahead();
    start_behind();
  }

  /// The next chunk's load, under way when this returns.
  __device__ __forceinline__ uint4 load_next() {
    uint4 chunk = make_uint4(0, 0, 0, 0);
    if (ahead_.present()) chunk = load_streaming(next_);
    next_ += 32;
    if (++ahead_.turn == p_.unit_turns) {
      ahead_.unit += ahead_.unit_stride;
      start_ahead();
    }
    return chunk;
  }

  __device__ __forceinline__ void start_segment(int segment) {
    stage_ = shared_memory<std::byte>() + segment % p_.num_stages * p_.stage_bytes;
    first_group_ = segment * p_.segment_groups;
    first_step_ = first_step_of<Format>(a_.w.shape, first_group_);
    find_tokens();
  }

  /// Multiplies the oldest chunk that load_next gave. All lanes together.
  __device__ __forceinline__ void multiply(const uint4& chunk) {
    if (behind_.present()) {
      PHALANX_UNROLL
      for (int s = 0; s < Format::kChunkSteps; ++s) {
        if (group_ < end_group_) multiply_step(chunk, s);
      }
    }
    if (++behind_.turn == p_.unit_turns) {
      behind_.unit += behind_.unit_stride;
      start_behind();
    }
  }

 private:
  __device__ __forceinline__ void start_ahead() {
    next_ = codes_ + ahead_.start_unit(a_.w.shape, p_) * 32;
  }
  __device__ __forceinline__ void start_behind() {
    behind_.start_unit(a_.w.shape, p_);
    group_ = behind_.unit * p_.unit_groups;
    end_group_ = min(group_ + p_.unit_groups, a_.w.shape.num_groups);
    find_tokens();
    start_group();
  }
  __device__ __forceinline__ void start_group() {
    steps_left_ = steps_of<Format>(a_.w.shape, group_);
    PHALANX_UNROLL
    for (int c = 0; c < kColumnTiles; ++c) {
      PHALANX_UNROLL
      for (int i = 0; i < 4; ++i) sums_[c][i] = 0;
    }
  }

  __device__ __forceinline__ void multiply_step(const uint4& chunk, int s) {
    uint32_t weights[Format::kProducts][4];
    PHALANX_UNROLL
    for (int i = 0; i < Format::kProducts; ++i) Format::operand(chunk, s, i, weights[i]);
    PHALANX_UNROLL
    for (int c = 0; c < kColumnTiles; ++c) {
      const auto words = *reinterpret_cast<const uint2*>(tokens_[c]);
      PHALANX_UNROLL
      for (int i = 0; i < Format::kProducts; ++i) {
        uint32_t columns[2];
        Format::columns(words, i, columns);
        Format::multiply(sums_[c], weights[i], columns);
      }
      tokens_[c] += kStepBytes;
    }
    if (--steps_left_ == 0) {
      store_group();
      ++group_;
      if (group_ < end_group_) start_group();
    }
  }

  /// Where the lane's tokens are at the first step of group_. Columns beyond the last token
  /// multiply it once more; nobody reads their sums.
  __device__ __forceinline__ void find_tokens() {
    const int step = first_step_of<Format>(a_.w.shape, group_) - first_step_;
    PHALANX_UNROLL
    for (int c = 0; c < kColumnTiles; ++c) {
      const int token = min(8 * c + group_lane_, a_.x.num_rows - 1);
      tokens_[c] = stage_ + token * p_.x_stride + step * kStepBytes + member_ * 8;
    }
  }

  __device__ __forceinline__ void store_group() {
    const int in_tiles = tile_in_block_ * p_.segment_groups + group_ - first_group_;
    auto* values = reinterpret_cast<Value*>(shared_memory<std::byte>() + p_.values_offset) +
                   in_tiles * a_.x.num_rows * kValueStride<sizeof(Value)> + group_lane_;
    PHALANX_UNROLL
    for (int c = 0; c < kColumnTiles; ++c) {
      PHALANX_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int token = 8 * c + 2 * member_ + i;
        if (token >= a_.x.num_rows) continue;
        Format::hold(sums_[c][i], values[token * kValueStride<sizeof(Value)>]);
        Format::hold(sums_[c][2 + i], values[token * kValueStride<sizeof(Value)> + 8]);
      }
    }
  }

  const LinearCall& a_;
  const SmallPlan& p_;
  const int tile_in_block_;
  const int group_lane_;  ///< lane / 4, mma's "group"
  const int member_;
  const uint4* codes_;  ///< this lane's part of the tile's first chunk
  const uint4* next_;
  ChunkWalk<Format> ahead_;
  ChunkWalk<Format> behind_;
  Sum sums_[kColumnTiles][4];
  const std::byte* tokens_[kColumnTiles];  ///< this lane's 8 bytes of the next step
  const std::byte* stage_ = nullptr;
  int first_group_ = 0;  ///< of the segment
  int first_step_ = 0;
  int group_;
  int end_group_;
  int steps_left_;
};

/// What turns the sums of a segment's groups into values, for one output of a tile and one row.
class SegmentScales {
 public:
  __device__ __forceinline__ SegmentScales(const LinearCall& a, const SmallPlan& p, int segment,
                                           int tile_in_block, int row, int output)
      : dtype_(a.w.scale_dtype), has_zeros_(a.w.zeros != nullptr) {
    const auto* stage = shared_memory<std::byte>() + segment % p.num_stages * p.stage_bytes;
    const int of_output = tile_in_block * p.segment_groups * kTileOutputs + output;
    w_scales_ = stage + p.scales_offset + of_output * (dtype_ == DType::kF32 ? 4 : 2);
    zeros_ = reinterpret_cast<const uint8_t*>(stage + p.zeros_offset) + of_output;
    const int of_row = row * p.segment_groups;
    x_scales_ = reinterpret_cast<const float*>(stage + p.x_scales_offset) + of_row;
    x_sums_ = reinterpret_cast<const int32_t*>(stage + p.x_sums_offset) + of_row;
  }

  /// `value` holds the sum of a group of the segment, and then its value.
  template <typename Format>
  __device__ __forceinline__ void apply(int group, typename Format::Value& value) const {
    const float scale = x_scales_[group] * load_scale(w_scales_, dtype_, group * kTileOutputs);
    int32_t correction = 0;
    if constexpr (Format::kIntegers) {
      if (has_zeros_) {
        const auto zero = static_cast<int32_t>(zeros_[group * kTileOutputs]);
        correction = (zero - Format::kDefaultZero) * x_sums_[group];
      }
    }
    value = Format::value(Format::sum_of(value), scale, correction);
  }

 private:
  DType dtype_;
  bool has_zeros_;
  const std::byte* w_scales_;
  const uint8_t* zeros_;
  const float* x_scales_;
  const int32_t* x_sums_;
};

/// y = x W^T (+ bias), or gated_linear. Grid: blocks of tiles. Threads: a multiple of 32 *
/// tiles_per_block, at least 16 * tiles_per_block * R, at most kSmallMostThreads.
template <typename Format, int kColumnTiles, bool kGated>
__global__ void __launch_bounds__(kSmallMostThreads) linear_small(LinearCall a, SmallPlan p) {
  using Value = typename Format::Value;
  constexpr int kDepth = kSmallDepth<kColumnTiles>;
  const MatrixGeometry& shape = a.w.shape;
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;

  const int warp_tile = warp % p.tiles_per_block;
  SmallProduct<Format, kColumnTiles> product(a, p, small_tile<kGated>(a, p, warp_tile), warp_tile,
                                             warp / p.tiles_per_block,
                                             static_cast<int>(blockDim.x) / 32 / p.tiles_per_block);
  uint4 chunks[kDepth];
  PHALANX_UNROLL
  for (int i = 0; i < kDepth; ++i) chunks[i] = product.load_next();
  stage_segment<Format, kGated>(a, p, 0);
  cp_async_commit();

  // The output and row whose values this thread scales, each num_slices'th group of them, and, in
  // slice 0, adds up.
  const int slice_threads = p.tiles_per_block * a.x.num_rows * kTileOutputs;
  const int num_slices = static_cast<int>(blockDim.x) / slice_threads;
  const int slice = thread / slice_threads;
  const int in_slice = thread % slice_threads;
  const int output = in_slice % kTileOutputs;
  const int row = in_slice / kTileOutputs % a.x.num_rows;
  const int tile_in_block = in_slice / kTileOutputs / a.x.num_rows;
  const int tile = small_tile<kGated>(a, p, tile_in_block);
  const bool scales_values = slice < num_slices && tile < shape.num_tiles;
  const bool adds = slice == 0 && scales_values;
  const int value_stride = a.x.num_rows * kValueStride<sizeof(Value)>;  // from group to group
  auto* values = reinterpret_cast<Value*>(shared_memory<std::byte>() + p.values_offset) +
                 tile_in_block * p.segment_groups * value_stride +
                 row * kValueStride<sizeof(Value)> + output;
  LaneTree lanes;
  float lane_sum = 0.0F;
  int lane_groups_left = shape.lane_groups;

  for (int segment = 0; segment < p.num_segments; ++segment) {
    const bool more = segment + 1 < p.num_segments;
    if (more && p.num_stages == 2) {
      stage_segment<Format, kGated>(a, p, segment + 1);
      cp_async_commit();
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();  // the stage is there, and the last segment's values have been added
    product.start_segment(segment);
    for (int done = 0; done < p.segment_turns; done += kDepth) {
      PHALANX_UNROLL
      for (int i = 0; i < kDepth; ++i) {
        product.multiply(chunks[i]);
        chunks[i] = product.load_next();
      }
    }
    __syncthreads();  // the values are there, and the stage is free
    const int num_groups = min(p.segment_groups, shape.num_groups - segment * p.segment_groups);
    if constexpr (Format::kQuantized) {
      const SegmentScales scales(a, p, segment, tile_in_block, row, output);
      if (scales_values) {
        for (int group = slice; group < num_groups; group += num_slices) {
          scales.template apply<Format>(group, values[group * value_stride]);
        }
      }
      __syncthreads();
    }
    if (more && p.num_stages == 1) {
      stage_segment<Format, kGated>(a, p, segment + 1);
      cp_async_commit();
    }
    if (!adds) continue;
    int group = 0;
    while (group < num_groups) {
      const int count = min(num_groups - group, lane_groups_left);
      for (int i = 0; i < count; ++i) {
        lane_sum = Format::add(lane_sum, values[(group + i) * value_stride]);
      }
      group += count;
      lane_groups_left -= count;
      if (lane_groups_left > 0) continue;
      lanes.add(lane_sum);
      lane_sum = 0.0F;
      lane_groups_left = shape.lane_groups;
    }
  }

  float total = lanes.total();
  if constexpr (!kGated) {
    const int n = tile * kTileOutputs + output;
    if (!adds || n >= shape.num_rows) return;
    if (a.w.bias != nullptr) total += a.w.bias[n];
    a.y[row * a.y_stride + n] = total;
  } else {
    // Factors go to the threads of their gates through the values' memory.
    const int pairs = p.tiles_per_block / 2;
    if (adds && a.w.bias != nullptr) total += a.w.bias[tile * kTileOutputs + output];
    auto* factors = reinterpret_cast<float*>(shared_memory<std::byte>() + p.values_offset);
    const int num_gates = pairs * a.x.num_rows * kTileOutputs;
    __syncthreads();
    if (adds && tile_in_block >= pairs) factors[thread - num_gates] = total;
    __syncthreads();
    const int num_cols = shape.num_rows / 2;
    if (adds && tile_in_block < pairs) {
      store_gated(a.gated, num_cols, row, tile * kTileOutputs + output, total, factors[thread]);
    }
    const int block_cols = pairs * kTileOutputs;
    const GatedPart part{
        num_cols, static_cast<int>(blockIdx.x) * block_cols, block_cols, 0, a.x.num_rows, 0};
    // The stages are free: nothing of them is read after the last segment.
    quantize_complete_groups(a.gated, part, shared_memory<uint32_t>());
  }
}

}  // namespace phalanx::kernels::cuda
