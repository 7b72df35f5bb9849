// Attention over Vec16: compiled once per tier, included only by attention_kernels_*.cpp after
// their vec16_*.h and vec16_math.h. The order of operations it follows is stated in attention.h.
// Nothing here may call a non-inlined library function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/attention_kernels.h"

namespace phalanx::kernels::cpu {
namespace {

constexpr int64_t kVectorsOfPartition = kPartitionTokens / 16;
constexpr int64_t kPrefetchPairs = 8;
constexpr int64_t kLine = 64;
constexpr int kBlocksOfPartition = static_cast<int>(kAttentionPartitionBlocks);

// How each KV format is read: `key` is 16 tokens of dimension d + kOdd (d even), `value` 16
// dimensions (chunk c) of token t + kOdd (t even).
struct F32Blocks {
  static constexpr bool kPaired = false;
  static constexpr bool kCodes = false;
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
  static constexpr bool kCodes = false;
  static Vec16 key_pairs(const std::byte* keys, int64_t d, int64_t half) {
    return Vec16::load_pairs(reinterpret_cast<const uint16_t*>(keys) + d * kBlockTokens +
                             half * 32);
  }
  static Vec16 value_pairs(const std::byte* values, int64_t t, int64_t chunk) {
    return Vec16::load_pairs(reinterpret_cast<const uint16_t*>(values) +
                             (chunk * kBlockTokens + t) * 16);
  }
};

/// Codes of a partition are widened first, which is exact, and read as bf16 from there.
struct Int8Blocks : Bf16Blocks {
  static constexpr bool kCodes = true;
};

/// Tokens [first, end) of a partition that a query sees.
struct Span {
  int64_t first = 0;
  int64_t end = 0;
  bool empty() const { return first >= end; }
};

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/// One tile's walk: its scaled queries, running results, and the partition at hand.
template <typename Blocks>
class TileWalk {
 public:
  explicit TileWalk(const AttentionTile& tile)
      : tile_(tile),
        head_dim_(tile.layout->head_dim),
        padded_(tile.layout->padded_head_dim),
        num_chunks_(tile.layout->padded_head_dim / 16) {}

  void run() {
    load_queries();
    for (int64_t i = 0; i < tile_.num_pairs; ++i) sums_[i] = 0.0F;
    for (int64_t partition = tile_.first_partition; partition < tile_.end_partition; ++partition) {
      if (enter(partition)) {
        score();
        for (int64_t i = first_; i < end_; ++i) weigh(i);
        gather_values();
      }
      if (tile_.partials != nullptr) {
        keep_partials(partition);
      } else {
        for (int64_t i = first_; i < end_; ++i) merge(i);
      }
      count_partition();
    }
    if (tile_.partials != nullptr) return;
    for (int64_t i = 0; i < tile_.num_pairs; ++i) {
      finish_row(tile_, i, totals_ + i * padded_, sums_[i]);
    }
  }

  static void merge_into(float* total, float& total_maximum, float& total_sum, const float* part,
                         float part_maximum, float part_sum, int64_t padded) {
    if (total_sum == 0.0F) {  // the first partition it sees: a sum is at least exp(0)
      total_maximum = part_maximum;
      total_sum = part_sum;
      for (int64_t c = 0; c < padded; c += 16) Vec16::load(part + c).store(total + c);
      return;
    }
    const float maximum = total_maximum > part_maximum ? total_maximum : part_maximum;
    const Vec16 a = exp(Vec16::broadcast(total_maximum - maximum));
    const Vec16 b = exp(Vec16::broadcast(part_maximum - maximum));
    alignas(64) float sum[16];
    fma(Vec16::broadcast(total_sum), a, Vec16::broadcast(part_sum) * b).store(sum);
    total_sum = sum[0];
    total_maximum = maximum;
    for (int64_t c = 0; c < padded; c += 16) {
      fma(Vec16::load(total + c), a, Vec16::load(part + c) * b).store(total + c);
    }
  }

  static void finish_row(const AttentionTile& tile, int64_t i, const float* total, float sum) {
    const int64_t pair = tile.first_pair + i;
    const int64_t head_dim = tile.layout->head_dim;
    float* y = tile.y + pair / tile.group_size * tile.y_stride + pair % tile.group_size * head_dim;
    const Vec16 inverse = Vec16::broadcast(1.0F / sum);
    for (int64_t d = 0; d < head_dim; d += 16) {
      (Vec16::load(total + d) * inverse).store_first(y + d, smaller(16, head_dim - d));
    }
  }

 private:
  /// count_piece() of runtime/base/work_counter.h, once more: tiers share no inline functions.
  void count_partition() const {
    __atomic_store_n(tile_.tally, __atomic_load_n(tile_.tally, __ATOMIC_RELAXED) + 1,
                     __ATOMIC_RELAXED);
  }

  void load_queries() {
    const Vec16 scale = Vec16::broadcast(tile_.scale);
    for (int64_t i = 0; i < tile_.num_pairs; ++i) {
      const int64_t pair = tile_.first_pair + i;
      const float* q =
          tile_.q + pair / tile_.group_size * tile_.q_stride + pair % tile_.group_size * head_dim_;
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

  /// Sets the spans of all pairs, the pairs [first_, end_) that see something of the partition, and
  /// the addresses of the blocks they see. False when none does.
  bool enter(int64_t partition) {
    const int64_t base = partition * kPartitionTokens;
    first_ = tile_.num_pairs;
    end_ = 0;
    int64_t first_token = kPartitionTokens;
    int64_t end_token = 0;
    for (int64_t i = 0; i < tile_.num_pairs; ++i) {
      const int64_t position = tile_.first_position + (tile_.first_pair + i) / tile_.group_size;
      const int64_t oldest =
          tile_.sliding_window > 0 ? larger(0, position - tile_.sliding_window + 1) : 0;
      spans_[i] = {larger(0, oldest - base), smaller(kPartitionTokens, position + 1 - base)};
      if (spans_[i].empty()) continue;
      first_ = smaller(first_, i);
      end_ = i + 1;
      first_token = smaller(first_token, spans_[i].first);
      end_token = larger(end_token, spans_[i].end);
    }
    if (first_ >= end_) {
      first_ = end_ = 0;
      return false;
    }
    // Blocks before every window are not read.
    first_block_ = first_token / kBlockTokens;
    end_block_ = (end_token + kBlockTokens - 1) / kBlockTokens;
    for (int64_t b = first_block_; b < end_block_; ++b) {
      const int64_t id = tile_.block_table[partition * kAttentionPartitionBlocks + b];
      blocks_[b] = tile_.blocks + id * tile_.block_stride;
    }
    plan_fetching(partition + 1);
    return true;
  }

  // ------------------------------------------------------------------------------ fetching ----

  /// Blocks lie anywhere in memory, and few pairs would wait for them: those of the next partition
  /// are fetched while this one is walked, some lines with every step of the inner loops. Many
  /// pairs work long on what they load.
  void plan_fetching(int64_t partition) {
    num_ahead_ = 0;
    lines_a_step_ = 0;
    if (end_ - first_ > kPrefetchPairs || partition >= tile_.end_partition) return;
    const int64_t last_position =
        tile_.first_position + (tile_.first_pair + tile_.num_pairs - 1) / tile_.group_size;
    const int64_t first = partition * kAttentionPartitionBlocks;
    for (int64_t block = first; block < first + kAttentionPartitionBlocks; ++block) {
      if (block * kBlockTokens > last_position) break;
      ahead_[num_ahead_++] = tile_.blocks + tile_.block_table[block] * tile_.block_stride;
    }
    if (num_ahead_ == 0) return;
    const int64_t lines = num_ahead_ * tile_.layout->bytes / kLine;
    const int64_t steps = head_dim_ / 2 + (num_chunks_ + 7) / 8 * (kPartitionTokens / 2);
    lines_a_step_ = (lines + steps - 1) / steps;
    start_block_ahead();
  }

  void start_block_ahead() {
    fetch_at_ = ahead_[--num_ahead_];
    fetch_end_ = fetch_at_ + tile_.layout->bytes;
  }

  void fetch_ahead() {
    for (int64_t line = 0; line < lines_a_step_; ++line) {
      __builtin_prefetch(fetch_at_, 0, 2);
      fetch_at_ += kLine;
      if (fetch_at_ != fetch_end_) continue;
      if (num_ahead_ == 0) {
        lines_a_step_ = 0;
      } else {
        start_block_ahead();
      }
    }
  }

  /// Points keys_ (or values_) at the stored elements, or at what their codes are widened to.
  void open_keys() { open(keys_, 0, head_dim_); }
  void open_values() { open(values_, tile_.layout->values_offset, padded_); }

  void open(const std::byte** parts, int64_t offset, int64_t dimensions) {
    for (int64_t b = first_block_; b < end_block_; ++b) {
      parts[b] = blocks_[b] + offset;
      if constexpr (Blocks::kCodes) {
        uint16_t* wide = widened_ + b * kBlockTokens * dimensions;
        widen_codes(reinterpret_cast<const int8_t*>(parts[b]), kBlockTokens * dimensions, wide);
        parts[b] = reinterpret_cast<const std::byte*>(wide);
      }
    }
  }

  // ------------------------------------------------------------------------------- scores ----

  /// Scores of the pairs against the blocks they see. A group of blocks stays in the first-level
  /// cache while all pairs pass over it.
  __attribute__((noinline)) void score() {
    open_keys();
    [[maybe_unused]] const Flush flush;
    const int64_t pairs = end_ - first_;
    const int64_t pairs_at_once = pairs >= 4 && kMaxPairs >= 4 ? 4 : pairs >= 2 ? 2 : 1;
    const int64_t group = smaller(kBlocksOfPartition, larger(1, kMaxBlocks / pairs_at_once));
    const int64_t end_block = (spans_[end_ - 1].end + kBlockTokens - 1) / kBlockTokens;
    for (int64_t b = spans_[first_].first / kBlockTokens; b < end_block; b += group) {
      int64_t i = first_;
      if constexpr (kMaxPairs >= 4) {
        for (; i + 4 <= end_; i += 4) score_blocks<4>(i, b, b + group);
      }
      for (; i + 2 <= end_; i += 2) score_blocks<2>(i, b, b + group);
      if (i < end_) score_blocks<1>(i, b, b + group);
    }
  }

  template <int kPairs>
  void score_blocks(int64_t i, int64_t first_block, int64_t end_block) {
    int64_t b = larger(first_block, spans_[i].first / kBlockTokens);
    const int64_t end =
        smaller(end_block, (spans_[i + kPairs - 1].end + kBlockTokens - 1) / kBlockTokens);
    if constexpr (kMaxBlocks / kPairs >= 4) {
      for (; b + 4 <= end; b += 4) score_tile<kPairs, 4>(i, b);
    }
    if constexpr (kMaxBlocks / kPairs >= 2) {
      for (; b + 2 <= end; b += 2) score_tile<kPairs, 2>(i, b);
    }
    for (; b < end; ++b) score_tile<kPairs, 1>(i, b);
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
      Vec16 scale = Vec16::zero();
      if constexpr (Blocks::kCodes) {
        scale = Vec16::load(
            reinterpret_cast<const float*>(blocks_[b + j / 2] + tile_.layout->key_scales_offset) +
            j % 2 * 16);
      }
#pragma GCC unroll 4
      for (int m = 0; m < kPairs; ++m) {
        if constexpr (Blocks::kCodes) sums[m][j] = sums[m][j] * scale;
        sums[m][j].store(out + m * kPartitionTokens);
      }
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

  // ------------------------------------------------------------------------------ weights ----

  /// Turns pair i's scores into weights exp(score - maximum), with the part's maximum and sum.
  /// Vectors without a visible token are left out: they would add zeros.
  void weigh(int64_t i) {
    const Span span = spans_[i];
    float* scores = scores_ + i * kPartitionTokens;
    const int64_t first = span.first / 16;
    const int64_t end = (span.end + 15) / 16;
    for (int64_t t = first * 16; t < span.first; ++t) scores[t] = -__builtin_inff();
    for (int64_t t = span.end; t < end * 16; ++t) scores[t] = -__builtin_inff();
    Vec16 maxima = Vec16::broadcast(-__builtin_inff());
    for (int64_t v = first; v < end; ++v) maxima = max(Vec16::load(scores + v * 16), maxima);
    part_maxima_[i] = maxima.maximum();
    const Vec16 maximum = Vec16::broadcast(part_maxima_[i]);
    Vec16 sum = Vec16::zero();
    for (int64_t v = first; v < end; ++v) {
      Vec16 weight = exp(Vec16::load(scores + v * 16) - maximum);
      if constexpr (Blocks::kCodes) {
        sum = sum + weight;
        const Vec16 scale = Vec16::load(
            reinterpret_cast<const float*>(blocks_[v / 2] + tile_.layout->value_scales_offset) +
            v % 2 * 16);
        rounded_to_bf16(weight * scale).store_bf16(weight_codes_ + i * kPartitionTokens + v * 16);
      } else if constexpr (Blocks::kPaired) {
        weight = rounded_to_bf16(weight);
        weight.store_bf16(weight_codes_ + i * kPartitionTokens + v * 16);
        sum = sum + weight;
      } else {
        weight.store(scores + v * 16);
        sum = sum + weight;
      }
    }
    if constexpr (Blocks::kCodes) {  // nobody knows the scales of tokens that are not visible
      uint16_t* codes = weight_codes_ + i * kPartitionTokens;
      for (int64_t t = first * 16; t < span.first; ++t) codes[t] = 0;
      for (int64_t t = span.end; t < end * 16; ++t) codes[t] = 0;
    }
    part_sums_[i] = sum.sum();
  }

  // ------------------------------------------------------------------------------- values ----

  /// parts_[i] = sum of weight * value over the tokens pair i sees. Tokens that all pairs of a
  /// register tile see are walked together; the others before and after by each pair alone.
  __attribute__((noinline)) void gather_values() {
    open_values();
    [[maybe_unused]] const Flush flush;
    int64_t chunk = 0;
    if constexpr (kMaxChunks >= 8) {
      // Few pairs: more chunks, for enough independent sums. Many pairs: fewer, to keep registers.
      if (end_ - first_ < 4) {
        for (; chunk + 8 <= num_chunks_; chunk += 8) gather_chunks<8>(chunk);
      }
    }
    if constexpr (kMaxChunks >= 4) {
      for (; chunk + 4 <= num_chunks_; chunk += 4) gather_chunks<4>(chunk);
    }
    for (; chunk + 2 <= num_chunks_; chunk += 2) gather_chunks<2>(chunk);
    for (; chunk < num_chunks_; ++chunk) gather_chunks<1>(chunk);
  }

  template <int kChunks>
  void gather_chunks(int64_t chunk) {
    int64_t i = first_;
    if constexpr (kChunks * 4 <= Vec16::kMaxAccumulators) {
      for (; i + 4 <= end_; i += 4) gather_pairs<4, kChunks>(i, chunk);
    }
    if constexpr (kChunks * 2 <= Vec16::kMaxAccumulators) {
      for (; i + 2 <= end_; i += 2) gather_pairs<2, kChunks>(i, chunk);
    }
    for (; i < end_; ++i) gather_pairs<1, kChunks>(i, chunk);
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
    for (int64_t b = span.first / kBlockTokens; b * kBlockTokens < span.end; ++b) {
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

  // ------------------------------------------------------------------------------- merging ----

  void merge(int64_t i) {
    merge_into(totals_ + i * padded_, maxima_[i], sums_[i], parts_ + i * padded_, part_maxima_[i],
               part_sums_[i], padded_);
  }

  void keep_partials(int64_t partition) {
    const int64_t stride = padded_ + kPartialTail;
    float* out = tile_.partials + (partition - tile_.first_partition) * tile_.num_pairs * stride;
    for (int64_t i = 0; i < tile_.num_pairs; ++i, out += stride) {
      const bool seen = i >= first_ && i < end_;
      out[padded_ + 1] = seen ? part_sums_[i] : 0.0F;
      if (!seen) continue;
      out[padded_] = part_maxima_[i];
      for (int64_t c = 0; c < padded_; c += 16)
        Vec16::load(parts_ + i * padded_ + c).store(out + c);
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

  const AttentionTile& tile_;
  const int64_t head_dim_;
  const int64_t padded_;
  const int64_t num_chunks_;
  int64_t first_ = 0;  // pairs [first_, end_) see something of the partition at hand
  int64_t end_ = 0;
  int64_t first_block_ = 0;  // blocks of the partition that some pair sees
  int64_t end_block_ = 0;
  const std::byte* blocks_[kBlocksOfPartition];
  const std::byte* keys_[kBlocksOfPartition];
  const std::byte* values_[kBlocksOfPartition];
  const std::byte* ahead_[kBlocksOfPartition];  // blocks of the next partition still to be fetched
  int64_t num_ahead_ = 0;
  int64_t lines_a_step_ = 0;  // of the block now fetched
  const std::byte* fetch_at_ = nullptr;
  const std::byte* fetch_end_ = nullptr;
  Span spans_[kTilePairs];
  float maxima_[kTilePairs];
  float sums_[kTilePairs];  // 0 until the pair has seen a partition
  float part_maxima_[kTilePairs];
  float part_sums_[kTilePairs];
  // Queries, scaled, [pair][head_dim]; then weights, [pair][token]: codes where products take
  // pairs.
  static constexpr int64_t kQueryCodes = Blocks::kPaired ? kTilePairs * kMaxHeadDim + 16 : 1;
  alignas(64) uint16_t query_codes_[kQueryCodes];
  alignas(64) uint16_t weight_codes_[Blocks::kPaired ? kTilePairs * kPartitionTokens : 1];
  alignas(64) uint16_t widened_[Blocks::kCodes ? kPartitionTokens * kMaxHeadDim : 1];
  alignas(64) float queries_[Blocks::kPaired ? 1 : kTilePairs * kMaxHeadDim];
  alignas(64) float scores_[kTilePairs * kPartitionTokens];  // then weights
  alignas(64) float parts_[kTilePairs * kMaxHeadDim];        // [pair][padded], of this partition
  alignas(64) float totals_[kTilePairs * kMaxHeadDim];       // [pair][padded], merged so far
};

template <typename Blocks>
void walk(const AttentionTile& tile) {
  TileWalk<Blocks>(tile).run();
}

void merge(const AttentionTile& tile) {
  const int64_t padded = tile.layout->padded_head_dim;
  const int64_t stride = padded + kPartialTail;
  for (int64_t i = 0; i < tile.num_pairs; ++i) {
    alignas(64) float total[kMaxHeadDim];
    float maximum = 0.0F;
    float sum = 0.0F;
    for (int64_t p = 0; p < tile.end_partition - tile.first_partition; ++p) {
      const float* part = tile.partials + (p * tile.num_pairs + i) * stride;
      if (part[padded + 1] == 0.0F) continue;
      TileWalk<F32Blocks>::merge_into(total, maximum, sum, part, part[padded], part[padded + 1],
                                      padded);
    }
    TileWalk<F32Blocks>::finish_row(tile, i, total, sum);
  }
}

void quantize(const float* x, int64_t num_cols, int8_t* codes, float* scale) {
  constexpr float kSmallestNormal = 0x1p-126F;
  Vec16 magnitudes = Vec16::zero();
  for (int64_t k = 0; k < num_cols; k += 16) {
    magnitudes = max_magnitude(Vec16::load_first(x + k, smaller(16, num_cols - k)), magnitudes);
  }
  alignas(64) float lanes[16];
  magnitudes.store(lanes);
  uint32_t largest = 0;
  for (int i = 0; i < 16; ++i) {
    const auto pattern = __builtin_bit_cast(uint32_t, lanes[i]);
    largest = pattern > largest ? pattern : largest;
  }
  float s = __builtin_bit_cast(float, largest) / 127.0F;
  if (s < kSmallestNormal) s = 0.0F;
  *scale = s;
  const Vec16 inverse = Vec16::broadcast(s == 0.0F ? 0.0F : 1.0F / s);
  const Vec16 bound = Vec16::broadcast(127.0F);
  const Vec16 rounder = Vec16::broadcast(0x1.8p+23F);  // leaves the integer in the low bits
  for (int64_t k = 0; k < num_cols; k += 16) {
    const int64_t n = smaller(16, num_cols - k);
    const Vec16 scaled = min(Vec16::load_first(x + k, n) * inverse, bound);  // NaN becomes 127
    int8_t bytes[16];
    (max(scaled, negate(bound)) + rounder).store_low_bytes(bytes);
    for (int64_t i = 0; i < n; ++i) codes[k + i] = bytes[i];
  }
}

constexpr AttentionKernels kAttentionKernels{
    {walk<F32Blocks>, walk<Bf16Blocks>, walk<Int8Blocks>}, merge, quantize};

}  // namespace
}  // namespace phalanx::kernels::cpu
