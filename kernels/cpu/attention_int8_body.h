// Attention over int8 keys and values: integer sums, which are exact in any order. Included only by
// attention_kernels_body.h.
//
// Queries have 14 bits and weights 14, taken apart into two digits of base 128, high and low: a
// product with codes is then two sums of byte products, 128 * high + low. Digits are at most 64
// (of queries, signed) or 127 (of weights) in magnitude, so that two neighbouring products always
// fit 16 bits. Keys are stored plus 128, as the unsigned bytes of dot_quads; 128 * sum of Q is
// taken away again.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/attention_tile_body.h"

namespace phalanx::kernels::cpu {
namespace {

constexpr float kQueryLevels = 8191.0F;
constexpr float kWeightLevels = 16383.0F;
constexpr float kSmallestRange = 0x1p-100F;  // what is below has scale 0: 1 / scale must be finite
constexpr float kRounder = 0x1.8p+23F;       // added, it leaves the integer in the low bits

/// How a row of values becomes integers: the largest one becomes `levels`.
struct Steps {
  float scale;    ///< of one integer
  float inverse;  ///< value * inverse is rounded to the integer
};

inline Steps steps_of(float largest, float levels) {
  if (largest < kSmallestRange) return {0.0F, 0.0F};
  return {largest * (1.0F / levels), levels / largest};
}

/// Puts the digits of 16 integers where vectors of byte products read them: for every four, the
/// high digits, then the low ones, which are in [-kBias, 127 - kBias].
template <int kBias>
void store_digits(const IntVec16& integers, int8_t* to) {
  const IntVec16 above = (integers + IntVec16::broadcast(kBias)) & IntVec16::broadcast(-128);
  if constexpr (kBias == 0) {
    (integers + above).store_byte_planes(to);
  } else {
    const IntVec16 low = (integers - above) & IntVec16::broadcast(255);
    (above + above + low).store_byte_planes(to);
  }
}

class Int8Walk : public TileWalk {
 public:
  explicit Int8Walk(const AttentionTile& tile)
      : TileWalk(tile, kMaxPairs, steps_a_pair(*tile.layout)) {}

  void load_queries() {
    const Vec16 scale = Vec16::broadcast(tile_.scale);
    const IntVec16 rounder = bits_of(Vec16::broadcast(kRounder));
    for (int64_t i = 0; i < tile_.num_pairs; ++i) {
      const float* q = query(i);
      Vec16 magnitudes = Vec16::zero();
      for (int64_t d = 0; d < head_dim_; d += 16) {
        const Vec16 scaled = Vec16::load_first(q + d, smaller(16, head_dim_ - d)) * scale;
        magnitudes = max_magnitude(scaled, magnitudes);
      }
      const Steps steps = steps_of(magnitudes.largest_magnitude(), kQueryLevels);
      IntVec16 sums = IntVec16::zero();
      for (int64_t d = 0; d < head_dim_; d += 16) {
        const Vec16 scaled = Vec16::load_first(q + d, smaller(16, head_dim_ - d)) * scale;
        const IntVec16 integers =
            bits_of(scaled * Vec16::broadcast(steps.inverse) + Vec16::broadcast(kRounder)) -
            rounder;
        sums = sums + integers;
        store_digits<64>(integers, digits_of(query_digits_, i, d / 16));
      }
      query_scales_[i] = steps.scale;
      query_offsets_[i] = (IntVec16::zero() - shift_left<7>(sums)).sum();
    }
  }

  /// Scores of the pairs against the blocks they see.
  __attribute__((noinline)) void score() {
    in_runs<kMaxPairs>(first_, end_, [&](int64_t i, auto pairs) { score_blocks<pairs.kCount>(i); });
  }

  void weigh() {
    for (int64_t i = first_; i < end_; ++i) find_maximum(i);
    for (int64_t i = first_; i < end_; ++i) exponentiate(i);
    for (int64_t i = first_; i < end_; ++i) round_weights(i);
  }

  /// parts_[i] = sum of weight * value. Tokens that a pair does not see have weight 0 there.
  __attribute__((noinline)) void gather_values() {
    in_runs<kMaxPairs>(first_, end_,
                       [&](int64_t i, auto pairs) { gather_chunks<pairs.kCount>(i); });
  }

 private:
  static int64_t steps_a_pair(const KvBlockLayout& layout) {
    const int64_t chunks = layout.padded_head_dim / 16;
    return kBlocksOfPartition * chunks / kMaxBlocks + kVectorsOfPartition * chunks / kMaxChunks;
  }

  /// The 32 digits of pair i's 16 dimensions or tokens, counted in vectors.
  static int8_t* digits_of(int8_t* digits, int64_t i, int64_t vector) {
    return digits + (vector * kTilePairs + i) * 32;
  }

  const float* scales(int64_t vector, int64_t offset) const {
    const auto v = static_cast<uint64_t>(vector);  // its division is a shift
    return reinterpret_cast<const float*>(blocks_[v / 2] + offset) + v % 2 * 16;
  }

  // ------------------------------------------------------------------------------- scores ----

  template <int kPairs>
  void score_blocks(int64_t i) {
    in_runs<larger(1, smaller(4, kMaxBlocks / kPairs))>(
        block_of(spans_[i].first), end_block_of(spans_[i + kPairs - 1].end),
        [&](int64_t b, auto blocks) { score_tile<kPairs, blocks.kCount>(i, b); });
  }

  template <int kPairs, int kBlocks>
  void score_tile(int64_t i, int64_t b) {
    IntVec16 high[kPairs][kBlocks * 2];
    IntVec16 low[kPairs][kBlocks * 2];
#pragma GCC unroll 4
    for (int m = 0; m < kPairs; ++m) {
#pragma GCC unroll 8
      for (int j = 0; j < kBlocks * 2; ++j) {
        high[m][j] = IntVec16::zero();
        low[m][j] = IntVec16::broadcast(query_offsets_[i + m]);
      }
    }
    // Digits beyond head_dim are 0, whatever their keys are.
    for (int64_t d = 0; d < padded_; d += 16) {
      fetch_ahead();
      const int8_t* digits = digits_of(query_digits_, i, d / 16);
#pragma GCC unroll 4
      for (int quad = 0; quad < 16; quad += 4) {
        IntVec16 keys[kBlocks * 2];
#pragma GCC unroll 8
        for (int j = 0; j < kBlocks * 2; ++j) {
          keys[j] =
              IntVec16::load_quads(blocks_[b + j / 2] + (d + quad) * kBlockTokens + j % 2 * 64);
        }
#pragma GCC unroll 4
        for (int m = 0; m < kPairs; ++m) {
          const IntVec16 x = IntVec16::broadcast_quad(digits + m * 32 + quad * 2);
          const IntVec16 y = IntVec16::broadcast_quad(digits + m * 32 + quad * 2 + 4);
#pragma GCC unroll 8
          for (int j = 0; j < kBlocks * 2; ++j) {
            high[m][j] = dot_quads(high[m][j], keys[j], x);
            low[m][j] = dot_quads(low[m][j], keys[j], y);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < kBlocks * 2; ++j) {
      const Vec16 scale = Vec16::load(scales(b * 2 + j, tile_.layout->key_scales_offset));
#pragma GCC unroll 4
      for (int m = 0; m < kPairs; ++m) {
        const Vec16 sum = to_f32(shift_left<7>(high[m][j]) + low[m][j]);
        (sum * scale * Vec16::broadcast(query_scales_[i + m]))
            .store(scores_ + (i + m) * kPartitionTokens + b * kBlockTokens + j * 16);
      }
    }
  }

  // ------------------------------------------------------------------------------ weights ----

  /// Turns scores into weights exp(score - maximum) times the scales of their values.
  void exponentiate(int64_t i) {
    float* scores = scores_ + i * kPartitionTokens;
    const Vec16 maximum = Vec16::broadcast(part_maxima_[i]);
    Vec16 sum = Vec16::zero();
    Vec16 magnitudes = Vec16::zero();
    const int64_t end = end_vector(i);
    for (int64_t v = first_vector(i); v < end; ++v) {
      fetch_ahead();
      const Vec16 weight = exp(Vec16::load(scores + v * 16) - maximum);
      sum = sum + weight;
      // Nobody knows the scales of tokens that are not visible.
      const Vec16 scale = Vec16::load(scales(v, tile_.layout->value_scales_offset));
      const Vec16 scaled = select_le(weight, Vec16::zero(), Vec16::zero(), weight * scale);
      magnitudes = max_magnitude(scaled, magnitudes);
      scaled.store(scores + v * 16);
    }
    part_sums_[i] = sum.sum();
    weight_steps_[i] = steps_of(magnitudes.largest_magnitude(), kWeightLevels);
  }

  void round_weights(int64_t i) {
    const Vec16 inverse = Vec16::broadcast(weight_steps_[i].inverse);
    const int64_t first = first_vector(i);
    const int64_t end = end_vector(i);
    for (int64_t v = first_block_ * 2; v < end_block_ * 2; ++v) {
      const bool is_seen = v >= first && v < end;
      const Vec16 scaled =
          is_seen ? Vec16::load(scores_ + i * kPartitionTokens + v * 16) : Vec16::zero();
      store_digits<0>(bits_of(scaled * inverse + Vec16::broadcast(kRounder)),
                      digits_of(weight_digits_, i, v));
    }
  }

  // ------------------------------------------------------------------------------- values ----

  template <int kPairs>
  void gather_chunks(int64_t i) {
    in_runs<smaller(4, kMaxChunks / kPairs)>(0, num_chunks_, [&](int64_t chunk, auto chunks) {
      gather<kPairs, chunks.kCount>(i, chunk);
    });
  }

  template <int kPairs, int kChunks>
  void gather(int64_t i, int64_t chunk) {
    IntVec16 high[kPairs][kChunks];
    IntVec16 low[kPairs][kChunks];
#pragma GCC unroll 4
    for (int m = 0; m < kPairs; ++m) {
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) high[m][c] = low[m][c] = IntVec16::zero();
    }
    const int64_t end = end_block_of(spans_[i + kPairs - 1].end);
    for (int64_t b = block_of(spans_[i].first); b < end; ++b) {
      const std::byte* codes = blocks_[b] + tile_.layout->values_offset + chunk * 16 * kBlockTokens;
      for (int64_t t = 0; t < kBlockTokens; t += 16) {
        fetch_ahead();
        const int8_t* digits = digits_of(weight_digits_, i, (b * kBlockTokens + t) / 16);
#pragma GCC unroll 4
        for (int quad = 0; quad < 16; quad += 4) {
          IntVec16 values[kChunks];
#pragma GCC unroll 8
          for (int c = 0; c < kChunks; ++c) {
            values[c] = IntVec16::load_quads(codes + c * 16 * kBlockTokens + (t + quad) * 16);
          }
#pragma GCC unroll 4
          for (int m = 0; m < kPairs; ++m) {
            const IntVec16 x = IntVec16::broadcast_quad(digits + m * 32 + quad * 2);
            const IntVec16 y = IntVec16::broadcast_quad(digits + m * 32 + quad * 2 + 4);
#pragma GCC unroll 8
            for (int c = 0; c < kChunks; ++c) {
              high[m][c] = dot_quads(high[m][c], x, values[c]);
              low[m][c] = dot_quads(low[m][c], y, values[c]);
            }
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kPairs; ++m) {
      const Vec16 scale = Vec16::broadcast(weight_steps_[i + m].scale);
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) {
        (to_f32(shift_left<7>(high[m][c]) + low[m][c]) * scale)
            .store(parts_ + (i + m) * padded_ + (chunk + c) * 16);
      }
    }
  }

  // Register tiles: accumulators are two digits x pairs x 2 vectors of each block, or x chunks.
  static constexpr int kMaxPairs = Vec16::kMaxAccumulators >= 16 ? 4 : 1;
  static constexpr int kMaxBlocks = Vec16::kMaxAccumulators / 4;  // pairs x blocks
  static constexpr int kMaxChunks = Vec16::kMaxAccumulators / 2;  // pairs x chunks

  float query_scales_[kTilePairs];
  int32_t query_offsets_[kTilePairs];
  Steps weight_steps_[kTilePairs];
  alignas(64) int8_t
      query_digits_[kTilePairs * 2 * kMaxHeadDim];  // [dimensions / 16][pair][4][2][4]
  alignas(64) int8_t
      weight_digits_[kTilePairs * 2 * kPartitionTokens];  // [tokens / 16][pair][4][2][4]
};

void quantize(const float* x, int64_t num_cols, int8_t* codes, float* scale) {
  constexpr float kSmallestNormal = 0x1p-126F;
  Vec16 magnitudes = Vec16::zero();
  for (int64_t k = 0; k < num_cols; k += 16) {
    magnitudes = max_magnitude(Vec16::load_first(x + k, smaller(16, num_cols - k)), magnitudes);
  }
  float s = magnitudes.largest_magnitude() / 127.0F;
  if (s < kSmallestNormal) s = 0.0F;
  *scale = s;
  const Vec16 inverse = Vec16::broadcast(s == 0.0F ? 0.0F : 1.0F / s);
  const Vec16 bound = Vec16::broadcast(127.0F);
  for (int64_t k = 0; k < num_cols; k += 16) {
    const int64_t n = smaller(16, num_cols - k);
    const Vec16 scaled = min(Vec16::load_first(x + k, n) * inverse, bound);  // NaN becomes 127
    int8_t bytes[16];
    bits_of(max(scaled, negate(bound)) + Vec16::broadcast(kRounder)).store_low_bytes(bytes);
    for (int64_t i = 0; i < n; ++i) codes[k + i] = bytes[i];
  }
}

}  // namespace
}  // namespace phalanx::kernels::cpu
