// Sizes of an attention block: how its warps share a tile of queries, and what lies where in shared
// memory. Included by the attention kernels and their launches.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/kv_layout.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// Before a loop that must not be unrolled: its body is large, and is there once.
#if defined(__CUDACC__)
#define PHALANX_ROLLED _Pragma("unroll 1")
#else
#define PHALANX_ROLLED
#endif

/// Tokens whose keys or values are one stage of the ring: half a partition.
inline constexpr int kStageTokens = 64;
inline constexpr int kStagesOfPart = kTokensOfPartition / kStageTokens;
inline constexpr int kPagesOfStage = kStageTokens / kTokensOfBlock;

/// Bytes of a row of scores: 128 floats, and so much more that neither the float pairs of a product
/// (8 rows x 4 lanes) nor the 16-byte pieces of weights (swizzled, see weight_chunk) meet in banks.
inline constexpr int kScoreRowBytes = 544;
inline constexpr int kScoreRowFloats = kScoreRowBytes / 4;

/// Where the 16-byte piece `chunk` of a row of weights lies. Weights take the place of their
/// scores. Rows are 34 pieces apart: rows 0..3 are then in even banks of pieces, rows 4..7 in odd
/// ones.
__device__ __forceinline__ int weight_chunk(int row, int chunk) {
  return row * kScoreRowBytes + (chunk ^ (row >> 2 & 1)) * 16;
}

/// A block of kRowWarps x kColumnWarps warps works on kRows_ queries. For scores the columns are
/// the tokens of a stage, for results the dimensions of a head: no warp ever adds to what another
/// one adds to, so a result is one chain over tokens, whatever the number of warps.
template <typename Body_, int kRows_, int kRowWarps_, int kColumnWarps_, int kStages_,
          int kBlocksOfSm_>
struct AttentionTile {
  using Body = Body_;
  static constexpr int kHeadDim = Body::kHeadDim;
  static constexpr int kRows = kRows_;
  static constexpr int kColumnWarps = kColumnWarps_;
  static constexpr int kWarps = kRowWarps_ * kColumnWarps_;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kBlocksOfSm = kBlocksOfSm_;
  static constexpr int kStages = kStages_;
  static constexpr int kRowTiles = kRows / 16 / kRowWarps_;             ///< of 16 rows, of a warp
  static constexpr int kTokenPairs = kStageTokens / 16 / kColumnWarps;  ///< of 8 tokens, of a warp
  /// Pairs of 8 dimensions of a warp; the last warps may have fewer.
  static constexpr int kDimPairs = (kHeadDim / 16 + kColumnWarps - 1) / kColumnWarps;
  static_assert(kHeadDim % 16 == 0 && kRowTiles >= 1 && kTokenPairs >= 1);

  static constexpr int kStageBytes = kStageTokens * kHeadDim * Body::kElementBytes;
  static constexpr int kResultBytes = kRows * kHeadDim * static_cast<int>(sizeof(float));
  static constexpr int kRingBytes =
      kStages * kStageBytes > kResultBytes ? kStages* kStageBytes : kResultBytes;
  static constexpr int kQueryBytes = kRows * Body::kQueryRowBytes;
  /// Scales of keys and values of two partitions: loads run ahead by less than one.
  static constexpr int kScaleBytes =
      Body::kHasScales ? 2 * 2 * kTokensOfPartition * static_cast<int>(sizeof(float)) : 0;
  static_assert(kStages - 1 <= 2 * kStagesOfPart + 2);

  static constexpr int kQueriesAt = kRingBytes;
  static constexpr int kScoresAt = kQueriesAt + kQueryBytes;
  static constexpr int kScalesAt = kScoresAt + kRows * kScoreRowBytes;
  static constexpr int kRowStateAt = kScalesAt + kScaleBytes;
  static constexpr int kRowWords = 8;
  static constexpr size_t kSharedBytes =
      static_cast<size_t>(kRowStateAt + kRows * kRowWords * static_cast<int>(sizeof(float)));
};

/// What a block knows of each of its queries, in shared memory.
template <typename Tile>
struct RowState {
  int* position;        ///< -1: no query
  float* query_scale;   ///< int8: of the query's integers
  float* maximum;       ///< of the partitions so far
  float* sum;           ///< of weights, relative to maximum; < 0: none so far
  float* total_factor;  ///< for what is merged so far; < 0: take the new part instead
  float* part_factor;   ///< for the new part; < 0: the query does not see it
  float* part_scale;    ///< int8: of the new part's integers
  int* is_last;         ///< of store_tile

  __device__ explicit RowState(std::byte* shared) {
    auto* words = reinterpret_cast<float*>(shared + Tile::kRowStateAt);
    position = reinterpret_cast<int*>(words);
    query_scale = words + Tile::kRows;
    maximum = words + 2 * Tile::kRows;
    sum = words + 3 * Tile::kRows;
    total_factor = words + 4 * Tile::kRows;
    part_factor = words + 5 * Tile::kRows;
    part_scale = words + 6 * Tile::kRows;
    is_last = reinterpret_cast<int*>(words + 7 * Tile::kRows);
  }
};

/// A warp's place, and its lane's place in fragments and in the matrices that ldmatrix loads.
template <typename Tile>
struct WarpPlace {
  int lane = static_cast<int>(threadIdx.x % 32);
  int first_row = static_cast<int>(threadIdx.x / 32) / Tile::kColumnWarps * Tile::kRowTiles * 16;
  int column = static_cast<int>(threadIdx.x / 32) % Tile::kColumnWarps;
  int group = lane / 4;
  int member = lane % 4;
  int matrix_row = lane % 8;
  int low_matrix = lane / 8 % 2;  ///< operand a: rows 8..15; operand b: the second half of k
  int high_matrix = lane / 16;    ///< operand a: the second half of k; operand b: columns 8..15
};

/// Calls step(0), ..., step(kSteps - 1). Unrolled where registers allow it, so that loads of the
/// next steps run ahead of products.
template <typename Tile, int kSteps, typename Step>
__device__ __forceinline__ void in_steps(Step step) {
  if constexpr (Tile::kRowTiles == 1) {
    PHALANX_UNROLL
    for (int k = 0; k < kSteps; ++k) step(k);
  } else {
    PHALANX_ROLLED
    for (int k = 0; k < kSteps; ++k) step(k);
  }
}

/// Whose tokens a tile's rows are.
struct TileTokens {
  const int* position;  ///< of each row
  int first_position;
  int num_tokens;
  int sliding_window;
  int first_of_stage;  ///< the token that the stage at hand begins with

  __device__ __forceinline__ bool is_seen_from(int token, int query_position) const {
    return token <= query_position && token >= oldest_token(query_position, sliding_window);
  }
  /// Whether some of the rows do not see all that others see of the stage.
  __device__ __forceinline__ bool is_ragged() const {
    const int last = first_position + num_tokens - 1;
    return num_tokens > 1 && (first_of_stage + kStageTokens - 1 > first_position ||
                              first_of_stage < oldest_token(last, sliding_window));
  }
};

/// The integers that values become, the largest one `levels`: value * inverse, rounded.
struct IntegerSteps {
  float scale;    ///< of one integer
  float inverse;  ///< 0 if there is nothing to round: all zero, or an infinity or NaN

  __device__ IntegerSteps(float largest, float levels) : scale(0.0F), inverse(0.0F) {
    constexpr float kSmallestRange = 0x1p-100F;  // 1 / scale must be finite
    if (largest < kSmallestRange) return;
    scale = largest * __fdiv_rn(1.0F, levels);
    if (__float_as_uint(largest) < 0x7f800000U) inverse = __fdiv_rn(levels, largest);
  }
};

}  // namespace phalanx::kernels::cuda
