// Attention's products over int8 keys and values: integer sums, which are exact in any order, so
// that results are the oracle's. Included by the attention kernels.
//
// Queries are integers of 14 bits and a sign, weights of 14 bits, taken apart into two digits of
// base 128, high and low; a product with codes is 128 * high + low. Digits of queries are at most
// 64 in magnitude (the low one signed), those of weights at most 127. Sums are at most 8191 * 127 *
// 256 and 16383 * 127 * 128: 28 bits.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

template <int kHeadDim_>
struct Int8Body {
  static constexpr KvFormat kFormat = KvFormat::kInt8;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kElementBytes = 1;
  static constexpr bool kHasScales = true;
  static constexpr bool kZeroUnseenValues = false;        // any byte times 0 is 0
  static constexpr int kSteps = (kHeadDim + 31) / 32;     // of a score's products
  static constexpr int kDigitBytes = kSteps * 32 + 16;    // of a row: an odd number of pieces
  static constexpr int kQueryRowBytes = 2 * kDigitBytes;  // high digits of all rows, then low ones
  using Sum = int32_t;

  static __device__ __forceinline__ float largest_of(float a, float b) {  // a NaN stays
    const uint32_t x = __float_as_uint(a);
    const uint32_t y = __float_as_uint(b) & 0x7fffffffU;
    return __uint_as_float(x > y ? x : y);
  }

  /// A warp a row: see Bf16Body for the arguments.
  template <typename Tile, typename RowOf>
  static __device__ __forceinline__ void load_queries(std::byte* queries, float* query_scale,
                                                      int num_rows, float scale, RowOf row_of) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    constexpr float kQueryLevels = 8191.0F;
    for (int row = static_cast<int>(threadIdx.x / 32); row < Tile::kRows; row += Tile::kWarps) {
      float q[kSteps];
      float largest = 0.0F;
      PHALANX_UNROLL
      for (int j = 0; j < kSteps; ++j) {
        const int d = j * 32 + lane;
        q[j] = row < num_rows && d < kHeadDim ? row_of(row)[d] * scale : 0.0F;
        largest = largest_of(largest, q[j]);
      }
      const IntegerSteps steps(largest_magnitude_of_warp(largest), kQueryLevels);
      PHALANX_UNROLL
      for (int j = 0; j < kSteps; ++j) {
        const int integer = steps.inverse > 0.0F ? __float2int_rn(q[j] * steps.inverse) : 0;
        const int high = (integer + 64) >> 7;
        std::byte* to = queries + row * kDigitBytes + j * 32 + lane;
        *to = static_cast<std::byte>(high);
        *(to + Tile::kRows * kDigitBytes) = static_cast<std::byte>(integer - high * 128);
      }
      if (lane == 0) query_scale[row] = steps.scale;
    }
  }

  template <typename Tile>
  static __device__ __forceinline__ void score(const std::byte* keys, const std::byte* queries,
                                               float* scores, const float* key_scales,
                                               const float* query_scale, int half) {
    const WarpPlace<Tile> at;
    constexpr int kChunks = kHeadDim / 16;
    int32_t high[Tile::kRowTiles][Tile::kTokenPairs][2][4] = {};
    int32_t low[Tile::kRowTiles][Tile::kTokenPairs][2][4] = {};
    PHALANX_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      uint32_t a_high[Tile::kRowTiles][4];
      uint32_t a_low[Tile::kRowTiles][4];
      PHALANX_UNROLL
      for (int m = 0; m < Tile::kRowTiles; ++m) {
        const int row = at.first_row + m * 16 + at.low_matrix * 8 + at.matrix_row;
        const std::byte* from = queries + row * kDigitBytes + (k * 2 + at.high_matrix) * 16;
        ldmatrix_x4(a_high[m], from);
        ldmatrix_x4(a_low[m], from + Tile::kRows * kDigitBytes);
      }
      PHALANX_UNROLL
      for (int p = 0; p < Tile::kTokenPairs; ++p) {
        const int token_group = (at.column * Tile::kTokenPairs + p) * 2 + at.high_matrix;
        // Where half a step is beyond head_dim, digits are 0 and any key does.
        const int chunk = min(k * 2 + at.low_matrix, kChunks - 1);
        uint32_t b[4];
        ldmatrix_x4(b, keys + ((token_group * kChunks + chunk) * 8 + at.matrix_row) * 16);
        const uint32_t first[2] = {b[0], b[1]};
        const uint32_t second[2] = {b[2], b[3]};
        PHALANX_UNROLL
        for (int m = 0; m < Tile::kRowTiles; ++m) {
          mma_m16n8k32_s8(high[m][p][0], a_high[m], first);
          mma_m16n8k32_s8(low[m][p][0], a_low[m], first);
          mma_m16n8k32_s8(high[m][p][1], a_high[m], second);
          mma_m16n8k32_s8(low[m][p][1], a_low[m], second);
        }
      }
    }
    PHALANX_UNROLL
    for (int m = 0; m < Tile::kRowTiles; ++m) {
      PHALANX_UNROLL
      for (int p = 0; p < Tile::kTokenPairs; ++p) {
        PHALANX_UNROLL
        for (int n = 0; n < 2; ++n) {
          const int column = half * kStageTokens + (at.column * Tile::kTokenPairs + p) * 16 +
                             n * 8 + at.member * 2;
          const float2 key_scale = *reinterpret_cast<const float2*>(key_scales + column);
          PHALANX_UNROLL
          for (int h = 0; h < 2; ++h) {
            const int row = at.first_row + m * 16 + h * 8 + at.group;
            const int32_t x = high[m][p][n][2 * h] * 128 + low[m][p][n][2 * h];
            const int32_t y = high[m][p][n][2 * h + 1] * 128 + low[m][p][n][2 * h + 1];
            *reinterpret_cast<float2*>(scores + row * kScoreRowFloats + column) =
                make_float2(__int2float_rn(x) * key_scale.x * query_scale[row],
                            __int2float_rn(y) * key_scale.y * query_scale[row]);
          }
        }
      }
    }
  }

  static __device__ __forceinline__ void round_weights(float (&/*weights*/)[8]) {}

  /// Weights times the scales of their values, as digits; the scale of their integers.
  static __device__ __forceinline__ float store_weights(const float (&weights)[8], int row,
                                                        const float* value_scales, std::byte* to) {
    const int i = static_cast<int>(threadIdx.x % 16);
    constexpr float kWeightLevels = 16383.0F;
    float scaled[8];
    uint32_t largest = 0;  // as bit patterns: a NaN is above all
    PHALANX_UNROLL
    for (int j = 0; j < 8; ++j) {
      // Nobody knows the scales of tokens that are not seen.
      scaled[j] = weights[j] <= 0.0F ? 0.0F : weights[j] * value_scales[j * 16 + i];
      largest = max(largest, __float_as_uint(scaled[j]) & 0x7fffffffU);
    }
    PHALANX_UNROLL
    for (int step = 8; step > 0; step /= 2) {
      largest = max(largest, __shfl_xor_sync(kAllLanes, largest, step, 16));
    }
    const IntegerSteps steps(__uint_as_float(largest), kWeightLevels);
    PHALANX_UNROLL
    for (int j = 0; j < 8; ++j) {
      const int integer = steps.inverse > 0.0F ? __float2int_rn(scaled[j] * steps.inverse) : 0;
      to[weight_chunk(row, j) + i] = static_cast<std::byte>(integer >> 7);
      to[weight_chunk(row, 8 + j) + i] = static_cast<std::byte>(integer & 127);
    }
    return steps.scale;
  }

  template <typename Tile>
  static __device__ __forceinline__ void gather(
      const std::byte* values, const std::byte* weights, int half, const TileTokens& /*tokens*/,
      Sum (&sums)[Tile::kRowTiles][Tile::kDimPairs][2][4]) {
    const WarpPlace<Tile> at;
    in_steps<Tile, kPagesOfStage>([&](int k) {
      uint32_t a_high[Tile::kRowTiles][4];
      uint32_t a_low[Tile::kRowTiles][4];
      PHALANX_UNROLL
      for (int m = 0; m < Tile::kRowTiles; ++m) {
        const int row = at.first_row + m * 16 + at.low_matrix * 8 + at.matrix_row;
        const int chunk = half * (kStageTokens / 16) + k * 2 + at.high_matrix;
        ldmatrix_x4(a_high[m], weights + weight_chunk(row, chunk));
        ldmatrix_x4(a_low[m], weights + weight_chunk(row, 8 + chunk));
      }
      PHALANX_UNROLL
      for (int p = 0; p < Tile::kDimPairs; ++p) {
        const int pair = at.column * Tile::kDimPairs + p;
        if (pair * 16 >= kHeadDim) continue;
        const int matrix = (pair * 2 + at.high_matrix) * 2 + at.low_matrix;
        uint32_t b[4];
        ldmatrix_x4(b, values + k * kTokensOfBlock * kHeadDim + (matrix * 8 + at.matrix_row) * 16);
        PHALANX_UNROLL
        for (int m = 0; m < Tile::kRowTiles; ++m) {
          PHALANX_UNROLL
          for (int n = 0; n < 2; ++n) {
            const uint32_t column[2] = {b[2 * n], b[2 * n + 1]};
            int32_t high[4] = {};
            mma_m16n8k32_s8(high, a_high[m], column);
            mma_m16n8k32_s8(sums[m][p][n], a_low[m], column);
            PHALANX_UNROLL
            for (int i = 0; i < 4; ++i) sums[m][p][n][i] += high[i] * 128;
          }
        }
      }
    });
  }

  static __device__ __forceinline__ float part_of(Sum sum, float scale) {
    return __int2float_rn(sum) * scale;
  }
};

}  // namespace phalanx::kernels::cuda
