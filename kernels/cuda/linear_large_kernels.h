// The matrix product of many rows. Launched by linear_launches.
//
// A block makes kOutputs x kTokens of the output with all of K: weights and activations come in
// stages of four steps (128 bytes of a row) through a ring of kStages in shared memory, by
// cp.async. A warp multiplies TM tiles by TN columns of 8 tokens. The order is that of
// linear_small: a group from 0 by mma over its steps, groups ascending, lanes as a tree, so that
// the bits are the same.
//
// Weights keep their packed order in shared memory: a lane's 16 bytes are its operand (512
// contiguous bytes a warp, no conflicts, no ldmatrix). An activation row's four steps of 32 bytes
// are placed at (step ^ token % 4): the 8-byte loads of half a warp, four tokens by four members,
// then hit different banks.
//
// Shared memory reads of a step of a warp with TM = TN = 4, in 128-byte wavefronts: 4 * 4 of
// weights and 4 * 2 of activations for 16 mma instructions, 1.5 each; sm_90 starts at most one
// m16n8k32 a cycle: up to two thirds of the peak, about what mma.sync reaches. Lanes of a matrix
// with several (row-parallel ones) keep log2(L) levels of partial sums in shared memory: 32 or 64
// KiB each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/linear_call.h"
#include "kernels/cuda/linear_formats.h"
#include "kernels/cuda/linear_gated.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// Warps of a block by their place: kWarpsM along outputs, kWarpsN along tokens, each with kTilesM
/// tiles of 16 outputs and kTilesN columns of 8 tokens.
template <int kWarpsM_, int kWarpsN_, int kTilesM_, int kTilesN_, int kStages_, int kBlocksOfSm_>
struct LargeTile {
  static constexpr int kWarpsM = kWarpsM_;
  static constexpr int kWarpsN = kWarpsN_;
  static constexpr int kTilesM = kTilesM_;  ///< even: a gated warp has as many gates as factors
  static constexpr int kTilesN = kTilesN_;
  static constexpr int kStages = kStages_;  ///< of the ring
  static constexpr int kBlocksOfSm = kBlocksOfSm_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kBlockTiles = kWarpsM * kTilesM;
  static constexpr int kOutputs = kBlockTiles * kTileOutputs;
  static constexpr int kTokens = kWarpsN * kTilesN * 8;
  static constexpr int kSums = kTilesM * kTilesN * 4;  ///< of a thread
};
/// Stages of the first two: enough to cover a fetch from L2 by the products of a stage. The last
/// one is for what is still bound by the stream of weights, up to about 64 rows of a few thousand
/// outputs: its 7 * 4 KiB (w4: 2 KiB) under way a block, and two or three blocks an SM. It has few
/// tokens because activations come through L2 once for each block of outputs: 4 KiB a stage, where
/// 64 tokens would be 8; a second block of tokens finds its weights in L2.
using LargeWide = LargeTile<2, 4, 4, 4, 3, 1>;
using LargeTall = LargeTile<4, 2, 2, 4, 3, 2>;
using LargeShort = LargeTile<1, 4, 2, 1, 8, 3>;

inline constexpr int kStageSteps = 4;
inline constexpr int kStageRowBytes = kStageSteps * kStepBytes;

template <typename Tile>
constexpr int large_weight_bytes(int chunk_steps) {
  return Tile::kBlockTiles * (kStageSteps / chunk_steps) * kChunkBytes;
}
template <typename Tile>
constexpr int large_stage_bytes(int chunk_steps) {
  return large_weight_bytes<Tile>(chunk_steps) + Tile::kTokens * kStageRowBytes;
}
/// Of a block: the ring, and for L lanes log2(L) levels of sums.
template <typename Tile>
constexpr int64_t large_shared_bytes(int chunk_steps, int num_lanes) {
  int64_t bytes = int64_t{Tile::kStages} * large_stage_bytes<Tile>(chunk_steps);
  for (int lanes = num_lanes; lanes > 1; lanes /= 2) {
    bytes += int64_t{Tile::kSums} * Tile::kThreads * 4;
  }
  return bytes;
}

/// One block's product.
template <typename Format, typename Tile, bool kGated>
class LargeProduct {
 public:
  using Sum = typename Format::Sum;
  static constexpr int kOutputWords = Tile::kTilesM / 2;
  static constexpr int kStageChunks = kStageSteps / Format::kChunkSteps;
  static constexpr int kWeightBytes = large_weight_bytes<Tile>(Format::kChunkSteps);
  static constexpr int kStageBytes = large_stage_bytes<Tile>(Format::kChunkSteps);

  __device__ __forceinline__ explicit LargeProduct(const LinearCall& a)
      : a_(a),
        thread_(static_cast<int>(threadIdx.x)),
        group_lane_(thread_ % 32 / 4),
        member_(thread_ % 4),
        warp_m_(thread_ / 32 % Tile::kWarpsM),
        warp_n_(thread_ / 32 / Tile::kWarpsM),
        first_row_(static_cast<int>(blockIdx.x) * Tile::kTokens) {}

  __device__ __forceinline__ void run() {
    const MatrixGeometry& shape = a_.w.shape;
    const int num_stages = (shape.num_steps + kStageSteps - 1) / kStageSteps;
    for (int stage = 0; stage < Tile::kStages - 1; ++stage) {
      if (stage < num_stages) copy_stage(stage);
      cp_async_commit();
    }
    PHALANX_UNROLL
    for (int i = 0; i < Tile::kSums; ++i) totals_[i] = 0.0F;
    start_group();
    for (int stage = 0; stage < num_stages; ++stage) {
      cp_async_wait<Tile::kStages - 2>();
      __syncthreads();  // the stage is there, and the one before it is free
      if (stage + Tile::kStages - 1 < num_stages) copy_stage(stage + Tile::kStages - 1);
      cp_async_commit();
      multiply_stage(stage);
    }
    cp_async_wait<0>();
  }

  __device__ __forceinline__ void store() {
    if constexpr (kGated) {
      store_gated_part();
    } else {
      store_rows();
    }
  }

 private:
  /// The matrix's tile that is the block's `i`th; num_tiles or more: none.
  __device__ __forceinline__ int tile_at(int i) const {
    const auto block = static_cast<int>(blockIdx.y);
    if constexpr (!kGated) return block * Tile::kBlockTiles + i;
    constexpr int kPairs = Tile::kTilesM / 2;
    const int half = a_.w.shape.num_tiles / 2;
    const int tile =
        block * (Tile::kBlockTiles / 2) + i / Tile::kTilesM * kPairs + i % Tile::kTilesM % kPairs;
    if (tile >= half) return a_.w.shape.num_tiles;
    return i % Tile::kTilesM < kPairs ? tile : half + tile;
  }
  __device__ __forceinline__ int token_at(int column, int i) const {
    return first_row_ + (warp_n_ * Tile::kTilesN + column) * 8 + 2 * member_ + i % 2;
  }
  __device__ __forceinline__ std::byte* slot(int stage) const {
    return shared_memory<std::byte>() + stage % Tile::kStages * kStageBytes;
  }

  /// Starts bringing a stage to its slot; the caller commits.
  __device__ __forceinline__ void copy_stage(int stage) const {
    const MatrixGeometry& shape = a_.w.shape;
    std::byte* weights = slot(stage);
    constexpr int kTileUnits = kStageChunks * 32;  // of 16 bytes
    PHALANX_NO_UNROLL
    for (int i = thread_; i < Tile::kBlockTiles * kTileUnits; i += Tile::kThreads) {
      const int tile = tile_at(i / kTileUnits);
      const int chunk = stage * kStageChunks + i % kTileUnits / 32;
      const bool valid = tile < shape.num_tiles && chunk < shape.num_chunks;
      const int64_t from =
          valid
              ? (static_cast<int64_t>(tile) * shape.num_chunks + chunk) * kChunkBytes + i % 32 * 16
              : 0;
      cp_async_16_or_zero(weights + i * 16, a_.w.codes + from, valid);
    }
    std::byte* tokens = weights + kWeightBytes;
    constexpr int kRowUnits = kStageSteps * 2;
    PHALANX_NO_UNROLL
    for (int i = thread_; i < Tile::kTokens * kRowUnits; i += Tile::kThreads) {
      const int token = i / kRowUnits;
      const int step = i % kRowUnits / 2;
      std::byte* to =
          tokens + token * kStageRowBytes + (step ^ (token % 4)) * kStepBytes + i % 2 * 16;
      const int row = first_row_ + token;
      const int whole_step = stage * kStageSteps + step;
      if (row < a_.x.num_rows && whole_step < shape.num_steps) {
        copy_step_half<Format>(to, a_, row, whole_step, i % 2);
      } else {
        cp_async_16_or_zero(to, a_.x.codes, false);
      }
    }
  }

  __device__ __forceinline__ void multiply_stage(int stage) {
    const std::byte* weights = slot(stage);
    const std::byte* tokens = weights + kWeightBytes +
                              (warp_n_ * Tile::kTilesN * 8 + group_lane_) * kStageRowBytes +
                              member_ * 8;
    weights += (warp_m_ * Tile::kTilesM * kStageChunks * 32 + thread_ % 32) * 16;
    PHALANX_NO_UNROLL
    for (int chunk = 0; chunk < kStageChunks; ++chunk) {
      uint4 chunks[Tile::kTilesM];
      PHALANX_UNROLL
      for (int m = 0; m < Tile::kTilesM; ++m) {
        chunks[m] =
            *reinterpret_cast<const uint4*>(weights + (m * kStageChunks + chunk) * kChunkBytes);
      }
      PHALANX_UNROLL
      for (int s = 0; s < Format::kChunkSteps; ++s) {
        const int step = chunk * Format::kChunkSteps + s;
        if (stage * kStageSteps + step >= a_.w.shape.num_steps) return;
        PHALANX_UNROLL
        for (int i = 0; i < Format::kProducts; ++i) {
          uint32_t operands[Tile::kTilesM][4];
          PHALANX_UNROLL
          for (int m = 0; m < Tile::kTilesM; ++m) Format::operand(chunks[m], s, i, operands[m]);
          PHALANX_UNROLL
          for (int n = 0; n < Tile::kTilesN; ++n) {
            const auto words = *reinterpret_cast<const uint2*>(
                tokens + n * 8 * kStageRowBytes + (step ^ (group_lane_ % 4)) * kStepBytes);
            uint32_t columns[2];
            Format::columns(words, i, columns);
            PHALANX_UNROLL
            for (int m = 0; m < Tile::kTilesM; ++m) {
              Format::multiply(sums_[m][n], operands[m], columns);
            }
          }
        }
        if (--steps_left_ == 0) end_group();
      }
    }
  }

  __device__ __forceinline__ void start_group() {
    steps_left_ = steps_of<Format>(a_.w.shape, group_);
    PHALANX_UNROLL
    for (int m = 0; m < Tile::kTilesM; ++m) {
      PHALANX_UNROLL
      for (int n = 0; n < Tile::kTilesN; ++n) {
        PHALANX_UNROLL
        for (int i = 0; i < 4; ++i) sums_[m][n][i] = 0;
      }
    }
    if constexpr (Format::kQuantized) {
      // Now, so that they are there when the group ends; a number a lane, to save registers.
      PHALANX_UNROLL
      for (int i = 0; i < kOutputWords; ++i) {
        w_scales_[i] = load_scale(a_.w.scales, a_.w.scale_dtype, output_index(i));
      }
      x_scale_ = lane_token() < a_.x.num_rows ? a_.x.scales[token_index()] : 0.0F;
    }
  }
  /// The scale and zero of the warp's output 32 * i + lane. A tile that is none reads the last
  /// one's.
  __device__ __forceinline__ int64_t output_index(int i) const {
    const int output = 32 * i + thread_ % 32;
    const int tile =
        min(tile_at(warp_m_ * Tile::kTilesM + output / kTileOutputs), a_.w.shape.num_tiles - 1);
    return (static_cast<int64_t>(tile) * a_.w.shape.num_groups + group_) * kTileOutputs +
           output % kTileOutputs;
  }
  /// The warp's token of this lane; lanes beyond the last one repeat.
  __device__ __forceinline__ int lane_token() const {
    constexpr int kWarpTokens = Tile::kTilesN * 8;
    static_assert(kWarpTokens <= 32);
    return first_row_ + warp_n_ * kWarpTokens + thread_ % kWarpTokens;
  }
  __device__ __forceinline__ int64_t token_index() const {
    return static_cast<int64_t>(lane_token()) * a_.w.shape.num_groups + group_;
  }

  /// What lanes hold for outputs (words of 32) and tokens, as the lanes' sums want it.
  template <typename T>
  __device__ __forceinline__ T of_output(const T (&held)[kOutputWords], int m, int i) const {
    return __shfl_sync(kAllLanes, held[m / 2], m % 2 * kTileOutputs + group_lane_ + 8 * i);
  }
  template <typename T>
  __device__ __forceinline__ T of_token(T held, int n, int i) const {
    return __shfl_sync(kAllLanes, held, 8 * n + 2 * member_ + i);
  }

  __device__ __forceinline__ void end_group() {
    if (Format::kIntegers && a_.w.zeros != nullptr) correct_sums();
    PHALANX_UNROLL
    for (int n = 0; n < Tile::kTilesN; ++n) {
      float x_scales[2] = {1.0F, 1.0F};
      if constexpr (Format::kQuantized) {
        x_scales[0] = of_token(x_scale_, n, 0);
        x_scales[1] = of_token(x_scale_, n, 1);
      }
      PHALANX_UNROLL
      for (int m = 0; m < Tile::kTilesM; ++m) {
        float w_scales[2] = {1.0F, 1.0F};
        if constexpr (Format::kQuantized) {
          w_scales[0] = of_output(w_scales_, m, 0);
          w_scales[1] = of_output(w_scales_, m, 1);
        }
        PHALANX_UNROLL
        for (int i = 0; i < 4; ++i) {
          float& total = totals_[(m * Tile::kTilesN + n) * 4 + i];
          const float scale = x_scales[i % 2] * w_scales[i / 2];
          total = Format::add(total, Format::value(sums_[m][n][i], scale, 0));
        }
      }
    }
    ++group_;
    const MatrixGeometry& shape = a_.w.shape;
    if (shape.num_lanes > 1 && group_ % shape.lane_groups == 0) end_lane();
    if (group_ < shape.num_groups) start_group();
  }

  /// Takes what zeros other than the default ones add out of the group's sums.
  __device__ __forceinline__ void correct_sums() {
    if constexpr (Format::kIntegers) {
      int32_t zeros[kOutputWords];
      PHALANX_UNROLL
      for (int i = 0; i < kOutputWords; ++i) {
        zeros[i] = static_cast<int32_t>(a_.w.zeros[output_index(i)]) - Format::kDefaultZero;
      }
      const int32_t held = lane_token() < a_.x.num_rows ? a_.x.sums[token_index()] : 0;
      PHALANX_UNROLL
      for (int n = 0; n < Tile::kTilesN; ++n) {
        const int32_t x_sums[2] = {of_token(held, n, 0), of_token(held, n, 1)};
        PHALANX_UNROLL
        for (int m = 0; m < Tile::kTilesM; ++m) {
          const int32_t of_outputs[2] = {of_output(zeros, m, 0), of_output(zeros, m, 1)};
          PHALANX_UNROLL
          for (int i = 0; i < 4; ++i) {
            sums_[m][n][i] -= of_outputs[i / 2] * x_sums[i % 2] * Format::kSumUnit;
          }
        }
      }
    }
  }

  /// The tree of lanes as a binary counter whose levels lie in shared memory, a thread's sums
  /// beside its neighbours'. Leaves the tree's total after the last lane, else 0.
  __device__ __forceinline__ void end_lane() {
    const int lane = group_ / a_.w.shape.lane_groups - 1;
    auto* sums =
        reinterpret_cast<float*>(shared_memory<std::byte>() + Tile::kStages * kStageBytes) +
        thread_;
    constexpr int kLevel = Tile::kSums * Tile::kThreads;
    int level = 0;
    for (; (lane >> level & 1) != 0; ++level) {
      PHALANX_UNROLL
      for (int i = 0; i < Tile::kSums; ++i) {
        totals_[i] = sums[level * kLevel + i * Tile::kThreads] + totals_[i];
      }
    }
    if (lane + 1 == a_.w.shape.num_lanes) return;
    PHALANX_UNROLL
    for (int i = 0; i < Tile::kSums; ++i) {
      sums[level * kLevel + i * Tile::kThreads] = totals_[i];
      totals_[i] = 0.0F;
    }
  }

  __device__ __forceinline__ float with_bias(float total, int n) const {
    return a_.w.bias == nullptr ? total : total + a_.w.bias[n];
  }

  __device__ __forceinline__ void store_rows() const {
    PHALANX_UNROLL
    for (int m = 0; m < Tile::kTilesM; ++m) {
      PHALANX_UNROLL
      for (int n = 0; n < Tile::kTilesN; ++n) {
        PHALANX_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int output =
              tile_at(warp_m_ * Tile::kTilesM + m) * kTileOutputs + group_lane_ + 8 * (i / 2);
          const int token = token_at(n, i);
          if (output >= a_.w.shape.num_rows || token >= a_.x.num_rows) continue;
          a_.y[token * a_.y_stride + output] =
              with_bias(totals_[(m * Tile::kTilesN + n) * 4 + i], output);
        }
      }
    }
  }

  __device__ __forceinline__ void store_gated_part() const {
    constexpr int kPairs = Tile::kTilesM / 2;
    const int num_cols = a_.w.shape.num_rows / 2;
    PHALANX_UNROLL
    for (int m = 0; m < kPairs; ++m) {
      PHALANX_UNROLL
      for (int n = 0; n < Tile::kTilesN; ++n) {
        PHALANX_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int col =
              tile_at(warp_m_ * Tile::kTilesM + m) * kTileOutputs + group_lane_ + 8 * (i / 2);
          const int token = token_at(n, i);
          if (col >= num_cols || token >= a_.x.num_rows) continue;
          const float gate = with_bias(totals_[(m * Tile::kTilesN + n) * 4 + i], col);
          const float up =
              with_bias(totals_[((m + kPairs) * Tile::kTilesN + n) * 4 + i], num_cols + col);
          store_gated(a_.gated, num_cols, token, col, gate, up);
        }
      }
    }
    constexpr int kBlockCols = Tile::kOutputs / 2;
    const GatedPart part{
        num_cols,   static_cast<int>(blockIdx.y) * kBlockCols,      kBlockCols,
        first_row_, min(first_row_ + Tile::kTokens, a_.x.num_rows), static_cast<int>(blockIdx.x)};
    __syncthreads();  // nobody reads the ring any more
    quantize_complete_groups(a_.gated, part, shared_memory<uint32_t>());
  }

  const LinearCall& a_;
  const int thread_;
  const int group_lane_;  ///< lane / 4, mma's "group"
  const int member_;
  const int warp_m_;
  const int warp_n_;
  const int first_row_;
  int group_ = 0;
  int steps_left_ = 0;
  Sum sums_[Tile::kTilesM][Tile::kTilesN][4];
  float totals_[Tile::kSums];
  float w_scales_[kOutputWords];  ///< of outputs 32 * i + lane of the warp, for this group
  float x_scale_;                 ///< of lane_token()
};

/// y = x W^T (+ bias), or gated_linear. Grid: blocks of tokens, which share their weights and run
/// at the same time, x blocks of outputs. Shared memory: large_shared_bytes.
template <typename Format, typename Tile, bool kGated>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksOfSm) linear_large(LinearCall a) {
  LargeProduct<Format, Tile, kGated> product(a);
  product.run();
  product.store();
}

}  // namespace phalanx::kernels::cuda
