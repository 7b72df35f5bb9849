// Attention's products over bf16 keys and values. Included by the attention kernels.
//
// Queries are scaled and rounded to bf16, weights rounded to bf16, as in the oracle; sums are f32.
// Order: a score is a chain of products of 16 dimensions, ascending; a part of a result a chain of
// products of 16 tokens, ascending over the partition, each product being one mma, whose inner
// order is the hardware's. Tokens that a query does not see have weight 0, and add nothing.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

template <int kHeadDim_>
struct Bf16Body {
  static constexpr KvFormat kFormat = KvFormat::kBf16;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kElementBytes = 2;
  static constexpr bool kHasScales = false;
  /// Keys beyond what is seen need no zeros, as their scores are not looked at; values do, since 0
  /// times a NaN is a NaN.
  static constexpr bool kZeroUnseenValues = true;
  static constexpr int kQueryRowBytes = kHeadDim * 2 + 16;  // an odd number of 16-byte pieces
  using Sum = float;

  /// Queries of rows [0, num_rows) as bf16 of query * scale; zeros beyond. row_of(row) is where a
  /// row's query begins.
  template <typename Tile, typename RowOf>
  static __device__ __forceinline__ void load_queries(std::byte* queries, float* /*query_scale*/,
                                                      int num_rows, float scale, RowOf row_of) {
    constexpr int kPairs = kHeadDim / 2;
    for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows * kPairs; i += Tile::kThreads) {
      const int row = i / kPairs;
      const int d = i % kPairs * 2;
      uint32_t pair = 0;
      if (row < num_rows) {
        const float* q = row_of(row) + d;
        pair = f32x2_to_bf16x2(q[0] * scale, q[1] * scale);
      }
      *reinterpret_cast<uint32_t*>(queries + row * kQueryRowBytes + d * 2) = pair;
    }
  }

  /// Scores of the block's rows against the 64 tokens of a stage, into columns [64 half, ...).
  template <typename Tile>
  static __device__ __forceinline__ void score(const std::byte* keys, const std::byte* queries,
                                               float* scores, const float* /*key_scales*/,
                                               const float* /*query_scale*/, int half) {
    const WarpPlace<Tile> at;
    float sums[Tile::kRowTiles][Tile::kTokenPairs][2][4] = {};
    PHALANX_UNROLL
    for (int k = 0; k < kHeadDim / 16; ++k) {
      uint32_t a[Tile::kRowTiles][4];
      PHALANX_UNROLL
      for (int m = 0; m < Tile::kRowTiles; ++m) {
        const int row = at.first_row + m * 16 + at.low_matrix * 8 + at.matrix_row;
        ldmatrix_x4(a[m], queries + row * kQueryRowBytes + (k * 2 + at.high_matrix) * 16);
      }
      PHALANX_UNROLL
      for (int p = 0; p < Tile::kTokenPairs; ++p) {
        const int token_group = (at.column * Tile::kTokenPairs + p) * 2 + at.high_matrix;
        const int chunk = k * 2 + at.low_matrix;
        uint32_t b[4];
        ldmatrix_x4(b, keys + ((token_group * (kHeadDim / 8) + chunk) * 8 + at.matrix_row) * 16);
        const uint32_t low[2] = {b[0], b[1]};
        const uint32_t high[2] = {b[2], b[3]};
        PHALANX_UNROLL
        for (int m = 0; m < Tile::kRowTiles; ++m) {
          mma_m16n8k16_bf16(sums[m][p][0], a[m], low);
          mma_m16n8k16_bf16(sums[m][p][1], a[m], high);
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
          float* to = scores + (at.first_row + m * 16 + at.group) * kScoreRowFloats + column;
          *reinterpret_cast<float2*>(to) = make_float2(sums[m][p][n][0], sums[m][p][n][1]);
          *reinterpret_cast<float2*>(to + 8 * kScoreRowFloats) =
              make_float2(sums[m][p][n][2], sums[m][p][n][3]);
        }
      }
    }
  }

  /// Weights of one row, from those of tokens i, i + 16, ... in lane i of 16: rounded as they are
  /// multiplied, and stored.
  static __device__ __forceinline__ void round_weights(float (&weights)[8]) {
    PHALANX_UNROLL
    for (int j = 0; j < 8; ++j) weights[j] = bf16_to_f32(f32_to_bf16(weights[j]));
  }
  static __device__ __forceinline__ float store_weights(const float (&weights)[8], int row,
                                                        const float* /*value_scales*/,
                                                        std::byte* to) {
    const int i = static_cast<int>(threadIdx.x % 16);
    PHALANX_UNROLL
    for (int j = 0; j < 8; ++j) {
      *reinterpret_cast<uint16_t*>(to + weight_chunk(row, j * 2 + i / 8) + i % 8 * 2) =
          f32_to_bf16(weights[j]);
    }
    return 1.0F;
  }

  /// sums += weights * values over the 64 tokens of a stage, for the warp's dimensions.
  template <typename Tile>
  static __device__ __forceinline__ void gather(
      const std::byte* values, const std::byte* weights, int half, const TileTokens& tokens,
      Sum (&sums)[Tile::kRowTiles][Tile::kDimPairs][2][4]) {
    if (tokens.is_ragged() && holds_no_number<Tile>(values)) {
      gather_token_by_token<Tile>(values, weights, half, tokens, sums);
      return;
    }
    in_steps<Tile, kStageTokens / 16>([&](int k) {
      uint32_t a[Tile::kRowTiles][4];
      PHALANX_UNROLL
      for (int m = 0; m < Tile::kRowTiles; ++m) load_weights<Tile>(weights, half, k, m, a[m]);
      PHALANX_UNROLL
      for (int p = 0; p < Tile::kDimPairs; ++p) {
        uint32_t b[4];
        if (!load_values<Tile>(values, k, p, b)) continue;
        const uint32_t low[2] = {b[0], b[1]};
        const uint32_t high[2] = {b[2], b[3]};
        PHALANX_UNROLL
        for (int m = 0; m < Tile::kRowTiles; ++m) {
          mma_m16n8k16_bf16(sums[m][p][0], a[m], low);
          mma_m16n8k16_bf16(sums[m][p][1], a[m], high);
        }
      }
    });
  }

  static __device__ __forceinline__ float part_of(Sum sum, float /*scale*/) { return sum; }

 private:
  /// Operand a: weights of tokens 16 k, ... of the stage, for row tile m.
  template <typename Tile>
  static __device__ __forceinline__ void load_weights(const std::byte* weights, int half, int k,
                                                      int m, uint32_t (&a)[4]) {
    const WarpPlace<Tile> at;
    const int row = at.first_row + m * 16 + at.low_matrix * 8 + at.matrix_row;
    const int chunk = half * (kStageTokens / 8) + k * 2 + at.high_matrix;
    ldmatrix_x4(a, weights + weight_chunk(row, chunk));
  }

  /// Operands b: the values of these tokens, of the warp's pair p of 8 dimensions, if it has one.
  template <typename Tile>
  static __device__ __forceinline__ bool load_values(const std::byte* values, int k, int p,
                                                     uint32_t (&b)[4]) {
    const WarpPlace<Tile> at;
    const int pair = at.column * Tile::kDimPairs + p;
    if (pair * 16 >= kHeadDim) return false;
    const int token_group = k * 2 + at.low_matrix;
    const int chunk = pair * 2 + at.high_matrix;
    ldmatrix_x4_trans(b,
                      values + ((token_group * (kHeadDim / 8) + chunk) * 8 + at.matrix_row) * 16);
    return true;
  }

  /// Whether an infinity or NaN is among the stage's values of the warp's dimensions.
  template <typename Tile>
  static __device__ __forceinline__ bool holds_no_number(const std::byte* values) {
    constexpr uint32_t kExponents = 0x7f807f80U;
    bool found = false;
    PHALANX_ROLLED
    for (int k = 0; k < kStageTokens / 16; ++k) {
      PHALANX_ROLLED
      for (int p = 0; p < Tile::kDimPairs; ++p) {
        uint32_t b[4];
        if (!load_values<Tile>(values, k, p, b)) continue;
        PHALANX_UNROLL
        for (int i = 0; i < 4; ++i) {
          const uint32_t exponents = b[i] & kExponents;
          found = found || exponents >> 16 == kExponents >> 16 ||
                  (exponents & 0xffffU) == (kExponents & 0xffffU);
        }
      }
    }
    return __any_sync(kAllLanes, found ? 1 : 0) != 0;
  }

  /// The same products with zeros for what a token does not see, once for each token of the tile:
  /// a row that does not see an infinity must not multiply it by 0.
  template <typename Tile>
  static __device__ __forceinline__ void gather_token_by_token(
      const std::byte* values, const std::byte* weights, int half, const TileTokens& tokens,
      Sum (&sums)[Tile::kRowTiles][Tile::kDimPairs][2][4]) {
    PHALANX_UNROLL
    for (int m = 0; m < Tile::kRowTiles; ++m) {
      PHALANX_UNROLL
      for (int p = 0; p < Tile::kDimPairs; ++p) {
        float kept[8] = {};
        PHALANX_ROLLED
        for (int i = 0; i < tokens.num_tokens; ++i) {
          float chain[8];
          PHALANX_UNROLL
          for (int j = 0; j < 8; ++j) chain[j] = sums[m][p][j / 4][j % 4];
          add_what_is_seen<Tile>(values, weights, half, tokens, i, m, p, chain);
          const int row = WarpPlace<Tile>().first_row + m * 16 + WarpPlace<Tile>().group;
          PHALANX_UNROLL
          for (int j = 0; j < 8; ++j) {
            const bool is_token = tokens.position[row + j % 4 / 2 * 8] == tokens.first_position + i;
            if (is_token) kept[j] = chain[j];
          }
        }
        PHALANX_UNROLL
        for (int j = 0; j < 8; ++j) sums[m][p][j / 4][j % 4] = kept[j];
      }
    }
  }

  /// chain, sums of row tile m and pair p of 8 dimensions, += products with what token i sees.
  template <typename Tile>
  static __device__ __forceinline__ void add_what_is_seen(const std::byte* values,
                                                          const std::byte* weights, int half,
                                                          const TileTokens& tokens, int i, int m,
                                                          int p, float (&chain)[8]) {
    const WarpPlace<Tile> at;
    const int position = tokens.first_position + i;
    float low[4] = {chain[0], chain[1], chain[2], chain[3]};
    float high[4] = {chain[4], chain[5], chain[6], chain[7]};
    PHALANX_ROLLED
    for (int k = 0; k < kStageTokens / 16; ++k) {
      uint32_t b[4];
      if (!load_values<Tile>(values, k, p, b)) continue;
      PHALANX_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int token = tokens.first_of_stage + k * 16 + j % 2 * 8 + at.member * 2;
        if (!tokens.is_seen_from(token, position)) b[j] &= 0xffff0000U;
        if (!tokens.is_seen_from(token + 1, position)) b[j] &= 0x0000ffffU;
      }
      uint32_t a[4];
      load_weights<Tile>(weights, half, k, m, a);
      const uint32_t first[2] = {b[0], b[1]};
      const uint32_t second[2] = {b[2], b[3]};
      mma_m16n8k16_bf16(low, a, first);
      mma_m16n8k16_bf16(high, a, second);
    }
    PHALANX_UNROLL
    for (int j = 0; j < 4; ++j) {
      chain[j] = low[j];
      chain[4 + j] = high[j];
    }
  }
};

}  // namespace phalanx::kernels::cuda
