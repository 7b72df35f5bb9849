// Cuts a step's attention and KV writes into units and spreads them. Called by cpu_operators.
#include "kernels/cpu/attention.h"

#include <algorithm>

#include "kernels/cpu/huge_memory.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/dtype.h"

namespace phalanx::kernels::cpu {
namespace {

/// Floats of scratch for the partial results of tiles cut along their context.
constexpr int64_t kPartialFloats = int64_t{1} << 20;

/// Multiply-adds below which a fork and join costs more than it gains (about 1 us of one thread).
constexpr int64_t kWorkWorthForking = 48 * 1024;

/// Units per thread that even out the end of a step.
constexpr int64_t kUnitsPerThread = 4;

/// Partitions of a unit cut from a longer tile, at least.
constexpr int64_t kSmallestCut = 4;

/// Keys or values of one row and head into token slot t of a block.
void store_f32(KvFormat format, const float* x, int64_t head_dim, int64_t t, bool keys, float* to) {
  for (int64_t d = 0; d < head_dim; ++d) {
    to[keys ? key_index(format, t, d) : value_index(format, t, d)] = x[d];
  }
}

void store_bf16(const float* x, int64_t head_dim, int64_t t, bool keys, uint16_t* to) {
  uint16_t rounded[kMaxHeadDim];
  for (int64_t d = 0; d < head_dim; ++d) rounded[d] = f32_to_bf16(x[d]);
  for (int64_t d = 0; d < head_dim; ++d) {
    to[keys ? key_index(KvFormat::kBf16, t, d) : value_index(KvFormat::kBf16, t, d)] = rounded[d];
  }
}

void store_codes(const int8_t* codes, int64_t head_dim, int64_t t, bool keys, std::byte* to) {
  for (int64_t d = 0; d < head_dim; ++d) {
    const auto code = static_cast<std::byte>(codes[d]);
    if (keys) {
      to[key_index(KvFormat::kInt8, t, d)] = code ^ std::byte{128};  // plus 128
    } else {
      to[value_index(KvFormat::kInt8, t, d)] = code;
    }
  }
}

void store_token(const AttentionKernels& kernels, KvFormat format, const KvBlockLayout& layout,
                 const float* k, const float* v, int64_t t, std::byte* block) {
  std::byte* values = block + layout.values_offset;
  switch (format) {
    case KvFormat::kF32:
      store_f32(format, k, layout.head_dim, t, true, reinterpret_cast<float*>(block));
      store_f32(format, v, layout.head_dim, t, false, reinterpret_cast<float*>(values));
      return;
    case KvFormat::kBf16:
      store_bf16(k, layout.head_dim, t, true, reinterpret_cast<uint16_t*>(block));
      store_bf16(v, layout.head_dim, t, false, reinterpret_cast<uint16_t*>(values));
      return;
    case KvFormat::kInt8: {
      int8_t codes[kMaxHeadDim];
      auto* key_scales = reinterpret_cast<float*>(block + layout.key_scales_offset);
      auto* value_scales = reinterpret_cast<float*>(block + layout.value_scales_offset);
      kernels.quantize(k, layout.head_dim, codes, key_scales + t);
      store_codes(codes, layout.head_dim, t, true, block);
      kernels.quantize(v, layout.head_dim, codes, value_scales + t);
      store_codes(codes, layout.head_dim, t, false, values);
      return;
    }
  }
}

}  // namespace

const AttentionKernels& attention_kernels(IsaTier tier) {
  switch (tier) {
    case IsaTier::kPortable:
      break;
    case IsaTier::kAvx2:
    case IsaTier::kAvx2Vnni:
      return attention_kernels_avx2();
    case IsaTier::kAvx512:
      return attention_kernels_avx512();
  }
  return attention_kernels_portable();
}

Attention::Attention(IsaTier tier, ThreadTeam& team)
    : kernels_(attention_kernels(tier)), team_(team) {
  if (team.size() > 1) {
    partials_ = allocate_zeroed(kPartialFloats * static_cast<int64_t>(sizeof(float)));
  }
}

// -------------------------------------------------------------------------------- writing ----

/// One call of write_kv(). A unit is one block of one head of one sequence, so that no two threads
/// write to one cache line.
struct Attention::KvUnits {
  ConstRows k;
  ConstRows v;
  std::span<const SequenceRows> sequences;
  const KvLayerView& kv;
  const KvBlockLayout layout;
  const AttentionKernels& kernels;

  int64_t count_of(const SequenceRows& s) const {
    if (s.num_rows == 0) return 0;
    const int64_t last = s.first_position + s.num_rows - 1;
    return (last / kBlockTokens - s.first_position / kBlockTokens + 1) * kv.num_kv_heads;
  }

  int64_t count() const {
    int64_t sum = 0;
    for (const SequenceRows& s : sequences) sum += count_of(s);
    return sum;
  }

  void write(const SequenceRows& s, int64_t unit) const {
    const int64_t head = unit % kv.num_kv_heads;
    const int64_t block = s.first_position / kBlockTokens + unit / kv.num_kv_heads;
    std::byte* to = kv.data + (s.block_table[block] * kv.num_kv_heads + head) * layout.bytes;
    const int64_t first = std::max(block * kBlockTokens, s.first_position);
    const int64_t last = std::min((block + 1) * kBlockTokens, s.first_position + s.num_rows);
    for (int64_t position = first; position < last; ++position) {
      const int64_t row = s.first_row + position - s.first_position;
      store_token(kernels, kv.format, layout, k.data + row * k.stride + head * kv.head_dim,
                  v.data + row * v.stride + head * kv.head_dim, position % kBlockTokens, to);
    }
  }

  void write(int64_t begin, int64_t end, uint64_t* tally) const {
    int64_t first_unit = 0;  // of the sequence
    for (const SequenceRows& s : sequences) {
      if (first_unit >= end) return;
      const int64_t last_unit = first_unit + count_of(s);
      for (int64_t unit = std::max(begin, first_unit); unit < std::min(end, last_unit); ++unit) {
        write(s, unit - first_unit);
        count_piece(tally);
      }
      first_unit = last_unit;
    }
  }
};

void Attention::write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                         const KvLayerView& kv) {
  int64_t num_rows = 0;
  for (const SequenceRows& s : sequences) num_rows += s.num_rows;
  // A stored element costs about as much as eight multiply-adds.
  if (num_rows * kv.num_kv_heads * kv.head_dim * 16 < kWorkWorthForking) {
    write_sequences(k, v, sequences, kv);
    return;
  }
  const KvUnits units{k, v, sequences, kv, kv_block_layout(kv.format, kv.head_dim), kernels_};
  team_.split(units.count(), 1,
              [&](int64_t begin, int64_t end) { units.write(begin, end, team_.tally()); });
}

void Attention::write_sequences(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                                const KvLayerView& kv) const {
  const KvUnits units{k, v, sequences, kv, kv_block_layout(kv.format, kv.head_dim), kernels_};
  units.write(0, units.count(), team_.tally());
}

// ------------------------------------------------------------------------------ attention ----

/// One call of attention().
struct Attention::Step {
  ConstRows q;
  Rows y;
  std::span<const SequenceRows> sequences;
  const KvLayerView& kv;
  const AttentionParams& params;
  const KvBlockLayout& layout;
};

void Attention::index_heads(const KvLayerView& kv, const AttentionParams& params) {
  first_head_.assign(static_cast<size_t>(kv.num_kv_heads) + 1, params.num_query_heads);
  for (int64_t head = params.num_query_heads - 1; head >= 0; --head) {
    first_head_[static_cast<size_t>(params.kv_head_of_query[head])] = head;
  }
  for (int64_t head = kv.num_kv_heads - 1; head >= 0; --head) {  // KV heads that no query reads
    auto& first = first_head_[static_cast<size_t>(head)];
    first = std::min(first, first_head_[static_cast<size_t>(head) + 1]);
  }
}

void Attention::list_tiles(const Step& step) {
  units_.clear();
  for (const SequenceRows& s : step.sequences) {
    for (int64_t kv_head = 0; kv_head < step.kv.num_kv_heads; ++kv_head) {
      const int64_t first_head = first_head_[static_cast<size_t>(kv_head)];
      const int64_t group = first_head_[static_cast<size_t>(kv_head) + 1] - first_head;
      const int64_t num_pairs = s.num_rows * group;
      for (int64_t pair = 0; pair < num_pairs; pair += kTilePairs) {
        AttentionTile tile;
        tile.q = step.q.data + s.first_row * step.q.stride + first_head * step.layout.head_dim;
        tile.q_stride = step.q.stride;
        tile.y = step.y.data + s.first_row * step.y.stride + first_head * step.layout.head_dim;
        tile.y_stride = step.y.stride;
        tile.group_size = group;
        tile.first_pair = pair;
        tile.num_pairs = std::min(kTilePairs, num_pairs - pair);
        tile.first_position = s.first_position;
        tile.sliding_window = step.params.sliding_window;
        tile.scale = step.params.scale;
        tile.block_table = s.block_table;
        tile.blocks = step.kv.data + kv_head * step.layout.bytes;
        tile.block_stride = step.kv.num_kv_heads * step.layout.bytes;
        tile.layout = &step.layout;
        const int64_t first_position = s.first_position + pair / group;
        const int64_t last_position = s.first_position + (pair + tile.num_pairs - 1) / group;
        const int64_t oldest = tile.sliding_window > 0
                                   ? std::max(int64_t{0}, first_position - tile.sliding_window + 1)
                                   : 0;
        tile.first_partition = oldest / kPartitionTokens;
        tile.end_partition = last_position / kPartitionTokens + 1;
        units_.push_back(tile);
      }
    }
  }
}

void Attention::cut_long_tiles() {
  cut_tiles_.clear();
  int64_t cost = 0;  // pair-partitions
  for (const AttentionTile& tile : units_) {
    cost += tile.num_pairs * (tile.end_partition - tile.first_partition);
  }
  const int64_t unit_cost = ceil_div(cost, team_.size() * kUnitsPerThread);
  const size_t num_tiles = units_.size();
  int64_t floats_used = 0;
  for (size_t i = 0; i < num_tiles; ++i) {
    const AttentionTile tile = units_[i];
    const int64_t partitions = tile.end_partition - tile.first_partition;
    const int64_t cut = std::max(kSmallestCut, ceil_div(unit_cost, tile.num_pairs));
    const int64_t floats_of_partition =
        tile.num_pairs * (tile.layout->padded_head_dim + kPartialTail);
    const int64_t floats = partitions * floats_of_partition;
    if (cut >= partitions || floats_used + floats > kPartialFloats) continue;
    AttentionTile whole = tile;
    whole.partials = reinterpret_cast<float*>(partials_.get()) + floats_used;
    floats_used += floats;
    cut_tiles_.push_back(whole);
    for (int64_t first = tile.first_partition; first < tile.end_partition; first += cut) {
      AttentionTile part = whole;
      part.first_partition = first;
      part.end_partition = std::min(first + cut, tile.end_partition);
      part.partials += (first - tile.first_partition) * floats_of_partition;
      if (first == tile.first_partition) {
        units_[i] = part;
      } else {
        units_.push_back(part);
      }
    }
  }
}

/// Threads draw from `tiles` in turn.
template <typename Work>
void Attention::share(std::vector<AttentionTile>& tiles, Work&& work) {
  const auto count = static_cast<int64_t>(tiles.size());
  next_unit_.store(0, std::memory_order_relaxed);
  team_.run([&](int) {
    uint64_t* tally = team_.tally();
    for (int64_t i; (i = next_unit_.fetch_add(1, std::memory_order_relaxed)) < count;) {
      AttentionTile& tile = tiles[static_cast<size_t>(i)];
      tile.tally = tally;
      work(tile);
      count_piece(tally);
    }
  });
}

void Attention::attention(ConstRows q, std::span<const SequenceRows> sequences,
                          const KvLayerView& kv, const AttentionParams& params, Rows y) {
  const KvBlockLayout layout = kv_block_layout(kv.format, kv.head_dim);
  index_heads(kv, params);
  const auto walk = kernels_.walk[static_cast<size_t>(kv.format)];
  list_tiles({q, y, sequences, kv, params, layout});

  int64_t work = 0;  // multiply-adds, roughly
  for (const SequenceRows& s : sequences) {
    const int64_t end = s.first_position + s.num_rows;
    const int64_t seen = params.sliding_window > 0 ? std::min(params.sliding_window, end) : end;
    work += s.num_rows * params.num_query_heads * seen * layout.head_dim * 2;
  }
  if (team_.size() == 1 || work < kWorkWorthForking) {
    for (AttentionTile& tile : units_) {
      tile.tally = team_.tally();
      walk(tile);
    }
    return;
  }
  cut_long_tiles();
  share(units_, walk);
  if (!cut_tiles_.empty()) share(cut_tiles_, kernels_.merge);
}

}  // namespace phalanx::kernels::cpu
