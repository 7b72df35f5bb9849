// What the walks of all KV formats share: which pairs see which blocks, fetching ahead, and the
// merging of partitions. Included only by attention_kernels_body.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_kernels.h"

namespace phalanx::kernels::cpu {
namespace {

constexpr int64_t kVectorsOfPartition = kPartitionTokens / 16;
constexpr int64_t kPrefetchPairs = 8;
constexpr int64_t kFetchBytes = 256;  // four lines; every block is a multiple
constexpr int kBlocksOfPartition = static_cast<int>(kAttentionPartitionBlocks);

/// Tokens [first, end) of a partition that a query sees.
struct Span {
  int64_t first = 0;
  int64_t end = 0;
  bool empty() const { return first >= end; }
};

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

constexpr int64_t block_of(int64_t token) { return token / kBlockTokens; }
constexpr int64_t end_block_of(int64_t end_token) {
  return (end_token + kBlockTokens - 1) / kBlockTokens;
}

template <int kLength>
struct Run {
  static constexpr int kCount = kLength;
};

/// Cuts [begin, end) into runs of kLongest, a power of two, then of its halves: calls work(first,
/// Run<length>()) for each, ascending.
template <int kLongest, typename Work>
__attribute__((always_inline)) inline void in_runs(int64_t begin, int64_t end, const Work& work) {
  for (; begin + kLongest <= end; begin += kLongest) work(begin, Run<kLongest>());
  if constexpr (kLongest > 1) in_runs<kLongest / 2>(begin, end, work);
}

/// One tile on its way through the partitions. A format's walk derives from it and sets parts_,
/// part_maxima_ and part_sums_ of the pairs [first_, end_) in every partition that enter() accepts.
class TileWalk {
 public:
  /// pairs_at_once: of the walk's widest register tile. steps_a_pair: how often the products of one
  /// pair call fetch_ahead() in a partition, about, if they had all registers.
  TileWalk(const AttentionTile& tile, int64_t pairs_at_once, int64_t steps_a_pair)
      : tile_(tile),
        head_dim_(tile.layout->head_dim),
        padded_(tile.layout->padded_head_dim),
        num_chunks_(tile.layout->padded_head_dim / 16),
        inner_steps_(count_steps(tile.num_pairs, pairs_at_once, steps_a_pair)) {
    for (int64_t i = 0; i < tile_.num_pairs; ++i) {
      positions_[i] = tile_.first_position + (tile_.first_pair + i) / tile_.group_size;
      sums_[i] = 0.0F;
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
      const int64_t position = positions_[i];
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
    first_block_ = block_of(first_token);
    end_block_ = end_block_of(end_token);
    for (int64_t b = first_block_; b < end_block_; ++b) {
      const int64_t id = tile_.block_table[partition * kAttentionPartitionBlocks + b];
      blocks_[b] = tile_.blocks + id * tile_.block_stride;
    }
    plan_fetching(partition + 1);
    return true;
  }

  /// Keeps or merges what the partition gave.
  void leave(int64_t partition) {
    while (fetches_a_step_ > 0) fetch_ahead();
    if (tile_.partials != nullptr) {
      keep_partials(partition);
    } else {
      for (int64_t i = first_; i < end_; ++i) merge(i);
    }
    count_partition();
  }

  void finish() const {
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

 protected:
  const float* query(int64_t i) const {
    const int64_t pair = tile_.first_pair + i;
    return tile_.q + pair / tile_.group_size * tile_.q_stride + pair % tile_.group_size * head_dim_;
  }

  void fetch_ahead() {
    for (int64_t i = 0; i < fetches_a_step_; ++i) {
      for (int64_t at = 0; at < kFetchBytes; at += 64) __builtin_prefetch(fetch_at_ + at, 0, 2);
      fetch_at_ += kFetchBytes;
      if (fetch_at_ != fetch_end_) continue;
      if (next_ahead_ == num_ahead_) {
        fetches_a_step_ = 0;
      } else {
        start_block_ahead();
      }
    }
  }

  /// Vectors of 16 tokens that pair i sees something of. The others would add zeros.
  int64_t first_vector(int64_t i) const { return spans_[i].first / 16; }
  int64_t end_vector(int64_t i) const { return (spans_[i].end + 15) / 16; }

  /// Sets pair i's part_maxima_, and to -infinity what it does not see of those vectors' scores.
  /// The steps of weighing are taken by all pairs in turn, as each waits long for its sums.
  void find_maximum(int64_t i) {
    float* scores = scores_ + i * kPartitionTokens;
    for (int64_t t = first_vector(i) * 16; t < spans_[i].first; ++t) scores[t] = -__builtin_inff();
    for (int64_t t = spans_[i].end; t < end_vector(i) * 16; ++t) scores[t] = -__builtin_inff();
    Vec16 maxima = Vec16::broadcast(-__builtin_inff());
    const int64_t end = end_vector(i);
    for (int64_t v = first_vector(i); v < end; ++v) {
      maxima = max(Vec16::load(scores + v * 16), maxima);
    }
    part_maxima_[i] = maxima.maximum();
  }

 private:
  /// count_piece() of runtime/base/work_counter.h, once more: tiers share no inline functions.
  void count_partition() const {
    __atomic_store_n(tile_.tally, __atomic_load_n(tile_.tally, __ATOMIC_RELAXED) + 1,
                     __ATOMIC_RELAXED);
  }

  /// Of weighing and of products, where a register tile that is not full takes as long as a full
  /// one.
  static int64_t count_steps(int64_t num_pairs, int64_t pairs_at_once, int64_t steps_a_pair) {
    const int64_t at_once = num_pairs >= pairs_at_once ? pairs_at_once : 1;
    const int64_t passes = (num_pairs + at_once - 1) / at_once;
    return num_pairs * kVectorsOfPartition + passes * at_once * steps_a_pair;
  }

  /// Blocks lie anywhere in memory, and few pairs would wait for them: those of the next partition
  /// are fetched while this one is walked, some lines with every step of the inner loops. Many
  /// pairs work long on what they load.
  void plan_fetching(int64_t partition) {
    num_ahead_ = 0;
    next_ahead_ = 0;
    fetches_a_step_ = 0;
    if (end_ - first_ > kPrefetchPairs || partition >= tile_.end_partition) return;
    const int64_t last_position = positions_[tile_.num_pairs - 1];
    const int64_t first = partition * kAttentionPartitionBlocks;
    for (int64_t block = first; block < first + kAttentionPartitionBlocks; ++block) {
      if (block * kBlockTokens > last_position) break;
      ahead_[num_ahead_++] = tile_.blocks + tile_.block_table[block] * tile_.block_stride;
    }
    if (num_ahead_ == 0) return;
    const int64_t fetches = num_ahead_ * tile_.layout->bytes / kFetchBytes;
    fetches_a_step_ = larger(1, (fetches + inner_steps_ / 2) / inner_steps_);
    start_block_ahead();
  }

  void start_block_ahead() {
    fetch_at_ = ahead_[next_ahead_++];
    fetch_end_ = fetch_at_ + tile_.layout->bytes;
  }

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

 protected:
  const AttentionTile& tile_;
  const int64_t head_dim_;
  const int64_t padded_;
  const int64_t num_chunks_;
  int64_t first_ = 0;  // pairs [first_, end_) see something of the partition at hand
  int64_t end_ = 0;
  int64_t first_block_ = 0;  // blocks of the partition that some pair sees
  int64_t end_block_ = 0;
  const std::byte* blocks_[kBlocksOfPartition];
  Span spans_[kTilePairs];
  float part_maxima_[kTilePairs];
  float part_sums_[kTilePairs];
  alignas(64) float scores_[kTilePairs * kPartitionTokens];
  alignas(64) float parts_[kTilePairs * kMaxHeadDim];  // [pair][padded], of this partition

 private:
  const int64_t inner_steps_;
  int64_t positions_[kTilePairs];
  const std::byte* ahead_[kBlocksOfPartition];  // blocks of the next partition
  int64_t num_ahead_ = 0;
  int64_t next_ahead_ = 0;  // to be fetched after the one at hand
  int64_t fetches_a_step_ = 0;
  const std::byte* fetch_at_ = nullptr;
  const std::byte* fetch_end_ = nullptr;
  float maxima_[kTilePairs];
  float sums_[kTilePairs];                              // 0 until the pair has seen a partition
  alignas(64) float totals_[kTilePairs * kMaxHeadDim];  // [pair][padded], merged so far
};

template <typename Walk>
void walk(const AttentionTile& tile) {
  Walk walk(tile);
  walk.load_queries();
  for (int64_t partition = tile.first_partition; partition < tile.end_partition; ++partition) {
    if (walk.enter(partition)) {
      walk.score();
      walk.weigh();
      walk.gather_values();
    }
    walk.leave(partition);
  }
  walk.finish();
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
      TileWalk::merge_into(total, maximum, sum, part, part[padded], part[padded + 1], padded);
    }
    TileWalk::finish_row(tile, i, total, sum);
  }
}

}  // namespace
}  // namespace phalanx::kernels::cpu
