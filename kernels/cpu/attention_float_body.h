// Attention over f32 and bf16 keys and values: fma chains, for bf16 over pairs. Included only by
// attention_kernels_body.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/attention_tile_body.h"

namespace phalanx::kernels::cpu {
namespace {

// How each KV format is read: `key` is 16 tokens of dimension d + kOdd (d even), `value` 16
// dimensions (chunk c) of token t + kOdd (t even).
struct F32Blocks {
  static constexpr bool kPaired = false;
  template <int kOdd>
  static Vec16 key(const std::byte* keys, int64_t d, int64_t half) {
    return Vec16::load(reinterpret_cast<const float*>(keys) + (d + kOdd) * kBlockTokens +
                       half * 16);
  }
  template <int kOdd>
  static Vec16 value(const std::byte* values, int64_t t, int64_t chunk) {
    return Vec16::load(reinterpret_cast<const float*>(values) +
                       (chunk * kBlockTokens + t + kOdd) * 16);
  }
};

/// Pairs of dimensions (keys) and of tokens (values) lie together: products take pairs of bf16.
struct Bf16Blocks {
  static constexpr bool kPaired = true;
  static Vec16 key_pairs(const std::byte* keys, int64_t d, int64_t half) {
    return Vec16::load_pairs(reinterpret_cast<const uint16_t*>(keys) + d * kBlockTokens +
                             half * 32);
  }
  static Vec16 value_pairs(const std::byte* values, int64_t t, int64_t chunk) {
    return Vec16::load_pairs(reinterpret_cast<const uint16_t*>(values) +
                             (chunk * kBlockTokens + t) * 16);
  }
};

template <typename Blocks>
class FloatWalk : public TileWalk {
 public:
  explicit FloatWalk(const AttentionTile& tile)
      : TileWalk(tile, kMaxPairs, steps_a_pair(*tile.layout)) {}

  void load_queries() {
    const Vec16 scale = Vec16::broadcast(tile_.scale);
    for (int64_t i = 0; i < tile_.num_pairs; ++i) {
      const float* q = query(i);
      for (int64_t d = 0; d < head_dim_; d += 16) {
        const int64_t n = smaller(16, head_dim_ - d);
        const Vec16 scaled = Vec16::load_first(q + d, n) * scale;
        if constexpr (Blocks::kPaired) {
          // Whole vectors: the next row, or the room at the end, takes what is beyond head_dim.
          rounded_to_bf16(scaled).store_bf16(query_codes_ + i * head_dim_ + d);
        } else {
          scaled.store_first(queries_ + i * head_dim_ + d, n);
        }
      }
    }
  }

  /// Scores of the pairs against the blocks they see. A group of blocks stays in the first-level
  /// cache while all pairs pass over it.
  __attribute__((noinline)) void score() {
    open(keys_, 0);
    [[maybe_unused]] const Flush flush;
    const int64_t pairs = end_ - first_;
    const int64_t pairs_at_once = pairs >= 4 && kMaxPairs >= 4 ? 4 : pairs >= 2 ? 2 : 1;
    const int64_t group = smaller(kBlocksOfPartition, larger(1, kMaxBlocks / pairs_at_once));
    const int64_t end_block = end_block_of(spans_[end_ - 1].end);
    for (int64_t b = block_of(spans_[first_].first); b < end_block; b += group) {
      in_runs<kMaxPairs>(first_, end_, [&](int64_t i, auto pairs_run) {
        score_blocks<pairs_run.kCount>(i, b, b + group);
      });
    }
  }

  void weigh() {
    for (int64_t i = first_; i < end_; ++i) find_maximum(i);
    for (int64_t i = first_; i < end_; ++i) exponentiate(i);
  }

  /// parts_[i] = sum of weight * value over the tokens pair i sees. Tokens that all pairs of a
  /// register tile see are walked together; the others before and after by each pair alone.
  __attribute__((noinline)) void gather_values() {
    open(values_, tile_.layout->values_offset);
    [[maybe_unused]] const Flush flush;
    const auto gather_run = [&](int64_t chunk, auto chunks) {
      gather_chunks<chunks.kCount>(chunk);
    };
    // Few pairs: more chunks, for enough independent sums. Many pairs: fewer, to keep registers.
    if (end_ - first_ < 4) {
      in_runs<kMaxChunks>(0, num_chunks_, gather_run);
    } else {
      in_runs<smaller(4, kMaxChunks)>(0, num_chunks_, gather_run);
    }
  }

 private:
  static int64_t steps_a_pair(const KvBlockLayout& layout) {
    const int64_t chunks = layout.padded_head_dim / 16;
    return kBlocksOfPartition * layout.head_dim / 2 / kMaxBlocks +
           (chunks * kPartitionTokens / 2 + Vec16::kMaxAccumulators - 1) / Vec16::kMaxAccumulators;
  }

  void open(const std::byte** parts, int64_t offset) {
    for (int64_t b = first_block_; b < end_block_; ++b) parts[b] = blocks_[b] + offset;
  }

  template <int kPairs>
  void score_blocks(int64_t i, int64_t first_block, int64_t end_block) {
    in_runs<larger(1, smaller(4, kMaxBlocks / kPairs))>(
        larger(first_block, block_of(spans_[i].first)),
        smaller(end_block, end_block_of(spans_[i + kPairs - 1].end)),
        [&](int64_t b, auto blocks) { score_tile<kPairs, blocks.kCount>(i, b); });
  }

  template <int kPairs, int kBlocks>
  void score_tile(int64_t i, int64_t b) {
    Vec16 sums[kPairs][kBlocks * 2];
#pragma GCC unroll 4
    for (int m = 0; m < kPairs; ++m) {
#pragma GCC unroll 8
      for (int j = 0; j < kBlocks * 2; ++j) sums[m][j] = Vec16::zero();
    }
    for (int64_t d = 0; d < head_dim_; d += 2) {
      fetch_ahead();
      if constexpr (Blocks::kPaired) {
        add_dimension_pair<kPairs, kBlocks>(query_codes_ + i * head_dim_, b, d, sums);
      } else {
        add_dimension<kPairs, kBlocks, 0>(queries_ + i * head_dim_, b, d, sums);
        add_dimension<kPairs, kBlocks, 1>(queries_ + i * head_dim_, b, d, sums);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < kBlocks * 2; ++j) {
      float* out = scores_ + i * kPartitionTokens + b * kBlockTokens + j * 16;
#pragma GCC unroll 4
      for (int m = 0; m < kPairs; ++m) sums[m][j].store(out + m * kPartitionTokens);
    }
  }

  template <int kPairs, int kBlocks, int kOdd>
  void add_dimension(const float* q, int64_t b, int64_t d, Vec16 (&sums)[kPairs][kBlocks * 2]) {
    Vec16 keys[kBlocks * 2];
#pragma GCC unroll 8
    for (int j = 0; j < kBlocks * 2; ++j) {
      keys[j] = Blocks::template key<kOdd>(keys_[b + j / 2], d, j % 2);
    }
#pragma GCC unroll 4
    for (int m = 0; m < kPairs; ++m) {
      const Vec16 x = Vec16::broadcast(q[m * head_dim_ + d + kOdd]);
#pragma GCC unroll 8
      for (int j = 0; j < kBlocks * 2; ++j) sums[m][j] = fma(x, keys[j], sums[m][j]);
    }
  }

  static uint32_t load_pair(const uint16_t* from) {
    uint32_t pair;
    __builtin_memcpy(&pair, from, sizeof(pair));
    return pair;
  }

  template <int kPairs, int kBlocks>
  void add_dimension_pair(const uint16_t* q, int64_t b, int64_t d,
                          Vec16 (&sums)[kPairs][kBlocks * 2]) {
    Vec16 keys[kBlocks * 2];
#pragma GCC unroll 8
    for (int j = 0; j < kBlocks * 2; ++j) keys[j] = Blocks::key_pairs(keys_[b + j / 2], d, j % 2);
#pragma GCC unroll 4
    for (int m = 0; m < kPairs; ++m) {
      const Vec16 x = Vec16::broadcast_pair(load_pair(q + m * head_dim_ + d));
#pragma GCC unroll 8
      for (int j = 0; j < kBlocks * 2; ++j) sums[m][j] = dot_pairs(sums[m][j], x, keys[j]);
    }
  }

  /// Turns scores into weights exp(score - maximum).
  void exponentiate(int64_t i) {
    float* scores = scores_ + i * kPartitionTokens;
    const Vec16 maximum = Vec16::broadcast(part_maxima_[i]);
    Vec16 sum = Vec16::zero();
    const int64_t end = end_vector(i);
    for (int64_t v = first_vector(i); v < end; ++v) {
      fetch_ahead();
      Vec16 weight = exp(Vec16::load(scores + v * 16) - maximum);
      if constexpr (Blocks::kPaired) {
        weight = rounded_to_bf16(weight);
        weight.store_bf16(weight_codes_ + i * kPartitionTokens + v * 16);
      } else {
        weight.store(scores + v * 16);
      }
      sum = sum + weight;
    }
    part_sums_[i] = sum.sum();
  }

  template <int kChunks>
  void gather_chunks(int64_t chunk) {
    in_runs<smaller(4, Vec16::kMaxAccumulators / kChunks)>(
        first_, end_,
        [&](int64_t i, auto pairs) { gather_pairs<pairs.kCount, kChunks>(i, chunk); });
  }

  template <int kPairs, int kChunks>
  void gather_pairs(int64_t i, int64_t chunk) {
    float* parts = parts_ + i * padded_ + chunk * 16;
    for (int m = 0; m < kPairs; ++m) {
      for (int c = 0; c < kChunks; ++c) Vec16::zero().store(parts + m * padded_ + c * 16);
    }
    // Positions ascend with the pairs, so spans do: the last pair starts last, the first ends
    // first.
    Span shared{spans_[i + kPairs - 1].first, spans_[i].end};
    if constexpr (Blocks::kPaired && kPairs > 1) {  // no pair of tokens is taken apart
      shared.first = (shared.first + 1) / 2 * 2;
      shared.end = shared.end / 2 * 2;
    }
    if constexpr (kPairs == 1) {
      gather<1, kChunks>(i, chunk, shared);
    } else if (shared.empty()) {
      for (int m = 0; m < kPairs; ++m) gather<1, kChunks>(i + m, chunk, spans_[i + m]);
    } else {
      for (int m = 0; m < kPairs; ++m) {
        gather<1, kChunks>(i + m, chunk, {spans_[i + m].first, shared.first});
      }
      gather<kPairs, kChunks>(i, chunk, shared);
      for (int m = 0; m < kPairs; ++m) {
        gather<1, kChunks>(i + m, chunk, {shared.end, spans_[i + m].end});
      }
    }
  }

  template <int kPairs, int kChunks>
  void gather(int64_t i, int64_t chunk, Span span) {
    if (span.empty()) return;
    float* parts = parts_ + i * padded_ + chunk * 16;
    Vec16 sums[kPairs][kChunks];
#pragma GCC unroll 4
    for (int m = 0; m < kPairs; ++m) {
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) sums[m][c] = Vec16::load(parts + m * padded_ + c * 16);
    }
    for (int64_t b = block_of(span.first); b * kBlockTokens < span.end; ++b) {
      const int64_t first_weight = i * kPartitionTokens + b * kBlockTokens;
      const int64_t t = larger(0, span.first - b * kBlockTokens);
      const int64_t end = smaller(kBlockTokens, span.end - b * kBlockTokens);
      if constexpr (Blocks::kPaired) {
        gather_block_pairs<kPairs, kChunks>(weight_codes_ + first_weight, b, t, end, chunk, sums);
      } else {
        gather_block<kPairs, kChunks>(scores_ + first_weight, b, t, end, chunk, sums);
      }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kPairs; ++m) {
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) sums[m][c].store(parts + m * padded_ + c * 16);
    }
  }

  /// Tokens [t, end) of block b.
  template <int kPairs, int kChunks>
  void gather_block(const float* weights, int64_t b, int64_t t, int64_t end, int64_t chunk,
                    Vec16 (&sums)[kPairs][kChunks]) {
    if (t % 2 != 0) {
      add_token<kPairs, kChunks, 1>(weights, values_[b], t - 1, chunk, sums);
      ++t;
    }
    for (; t + 2 <= end; t += 2) {
      fetch_ahead();
      add_token<kPairs, kChunks, 0>(weights, values_[b], t, chunk, sums);
      add_token<kPairs, kChunks, 1>(weights, values_[b], t, chunk, sums);
    }
    if (t < end) add_token<kPairs, kChunks, 0>(weights, values_[b], t, chunk, sums);
  }

  /// The same by pairs. At the ends of a span a pair may be half visible: the
  /// other token's weight is 0, and its values, whatever they are, are masked.
  template <int kPairs, int kChunks>
  void gather_block_pairs(const uint16_t* weights, int64_t b, int64_t t, int64_t end, int64_t chunk,
                          Vec16 (&sums)[kPairs][kChunks]) {
    if (t % 2 != 0) {
      add_token_pair<kPairs, kChunks>(weights, values_[b], t - 1, chunk, sums, second_of_pairs);
      ++t;
    }
    const auto whole = [](const Vec16& pairs) { return pairs; };
    for (; t + 2 <= end; t += 2) {
      fetch_ahead();
      add_token_pair<kPairs, kChunks>(weights, values_[b], t, chunk, sums, whole);
    }
    if (t < end)
      add_token_pair<kPairs, kChunks>(weights, values_[b], t, chunk, sums, first_of_pairs);
  }

  template <int kPairs, int kChunks, typename Mask>
  void add_token_pair(const uint16_t* weights, const std::byte* block_values, int64_t t,
                      int64_t chunk, Vec16 (&sums)[kPairs][kChunks], const Mask& mask) {
    Vec16 values[kChunks];
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c)
      values[c] = mask(Blocks::value_pairs(block_values, t, chunk + c));
#pragma GCC unroll 4
    for (int m = 0; m < kPairs; ++m) {
      const Vec16 w = Vec16::broadcast_pair(load_pair(weights + m * kPartitionTokens + t));
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) sums[m][c] = dot_pairs(sums[m][c], w, values[c]);
    }
  }

  template <int kPairs, int kChunks, int kOdd>
  void add_token(const float* weights, const std::byte* block_values, int64_t t, int64_t chunk,
                 Vec16 (&sums)[kPairs][kChunks]) {
    Vec16 values[kChunks];
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) {
      values[c] = Blocks::template value<kOdd>(block_values, t, chunk + c);
    }
#pragma GCC unroll 4
    for (int m = 0; m < kPairs; ++m) {
      const Vec16 w = Vec16::broadcast(weights[m * kPartitionTokens + t + kOdd]);
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) sums[m][c] = fma(w, values[c], sums[m][c]);
    }
  }

  struct NoFlush {
    NoFlush() {}
    ~NoFlush() {}
  };
  using Flush = std::conditional_t<Blocks::kPaired, FlushScope, NoFlush>;

  // Register tiles: accumulators are pairs x 2 vectors of each block, or pairs x chunks.
  static constexpr int kMaxPairs = Vec16::kMaxAccumulators >= 16 ? 4 : 2;
  static constexpr int kMaxBlocks = Vec16::kMaxAccumulators / 2;  // pairs x blocks
  static constexpr int kMaxChunks = Vec16::kMaxAccumulators / 2;

  const std::byte* keys_[kBlocksOfPartition];
  const std::byte* values_[kBlocksOfPartition];
  // Queries, scaled, [pair][head_dim]; then weights, [pair][token], in scores_ or as codes.
  static constexpr int64_t kQueryCodes = Blocks::kPaired ? kTilePairs * kMaxHeadDim + 16 : 1;
  alignas(64) uint16_t query_codes_[kQueryCodes];
  alignas(64) uint16_t weight_codes_[Blocks::kPaired ? kTilePairs * kPartitionTokens : 1];
  alignas(64) float queries_[Blocks::kPaired ? 1 : kTilePairs * kMaxHeadDim];
};

}  // namespace
}  // namespace phalanx::kernels::cpu
