// Which kernels attention takes, with how many blocks, and where their scratch memory lies.
#include <algorithm>

#include "kernels/cuda/attention_launches.h"
#include "kernels/cuda/attention_plain_kernels.h"
#include "kernels/cuda/attention_plan_kernels.h"
#include "kernels/cuda/attention_tile_launches.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

/// Sequences of at most so many queries a KV head (tokens x group) go to small tiles: up to four of
/// them read the same keys, from the second on out of L2.
constexpr int64_t kMostSmallQueries = 64;

constexpr int64_t aligned(int64_t bytes) { return round_up(bytes, 64); }

QueryGroups query_groups(const LayerAttention& shape) {
  PHALANX_CHECK_LE(shape.num_kv_heads, int64_t{kMostKvHeads}, "KV heads of attention");
  PHALANX_CHECK_LE(shape.num_query_heads, int64_t{UINT16_MAX}, "query heads of attention");
  QueryGroups groups{};
  for (int64_t h = 0; h < shape.num_query_heads; ++h) {
    for (int64_t i = shape.kv_head_of_query[h]; i < shape.num_kv_heads; ++i) {
      groups.first[i + 1] = static_cast<uint16_t>(h + 1);
    }
  }
  return groups;
}

int64_t group_of(const QueryGroups& groups, int64_t kv_head) {
  return groups.first[kv_head + 1] - groups.first[kv_head];
}

int64_t largest_group(const LayerAttention& shape, const QueryGroups& groups) {
  int64_t largest = 0;
  for (int64_t i = 0; i < shape.num_kv_heads; ++i) largest = std::max(largest, group_of(groups, i));
  return largest;
}

/// One list of pieces: its bounds, and where its parts lie in plan and scratch memory.
struct ListLayout {
  int64_t rows = 0;  ///< of a tile
  int64_t min_tokens = 0, max_tokens = 0;
  int64_t tokens_of_tile = 1;
  int64_t max_tiles = 0;  ///< 0: no sequence can be in this list
  int64_t target_pieces = 0;
  int64_t max_pieces = 0;
  int64_t slot_rows = 0;
  int64_t record_floats = 0;
  int64_t num_slots = 0;
  int64_t pieces_at = 0;    ///< in plan memory
  int64_t arrivals_at = 0;  ///< in counter memory
  int64_t partials_at = 0;  ///< in scratch memory
};

struct Layout {
  QueryGroups groups{};
  int64_t group_size = 0;
  ListLayout lists[kAttentionLists];
  int64_t row_arrivals_at = 0;  ///< in counter memory
  int64_t waiting_rows_at = 0;  ///< in scratch memory
  AttentionBytes bytes;
};

ListLayout list_layout(const LayerAttention& shape, const AttentionBounds& bounds,
                       int64_t group_size, bool is_large) {
  ListLayout list;
  list.rows = is_large ? kRowsOfLargeTile : kRowsOfSmallTile;
  const int64_t small_tokens = kMostSmallQueries / group_size;
  list.min_tokens = is_large ? small_tokens + 1 : 1;
  list.max_tokens =
      is_large ? bounds.max_rows_of_sequence : std::min(small_tokens, bounds.max_rows_of_sequence);
  if (list.max_tokens < list.min_tokens) return list;
  list.tokens_of_tile = std::max<int64_t>(1, list.rows / group_size);
  const int64_t chunks = ceil_div(group_size, list.rows);
  // Each sequence has at most one tile that is not full, and at least min_tokens rows.
  const int64_t sequences = std::min(bounds.num_sequences, bounds.max_rows / list.min_tokens);
  list.max_tiles =
      std::min(bounds.max_rows / list.tokens_of_tile + sequences, bounds.max_rows) * chunks;
  list.target_pieces = ceil_div(bounds.target_blocks, shape.num_kv_heads);
  list.max_pieces = list.target_pieces + list.max_tiles;
  const int64_t tokens = std::min(list.tokens_of_tile, list.max_tokens);
  list.slot_rows = tokens * std::min(group_size, list.rows);
  list.record_floats = ceil_div(list.slot_rows * (shape.head_dim + 2), 4) * 4;
  const int64_t partitions = ceil_div(bounds.max_context, kTokensOfPartition);
  const int64_t affordable = bounds.partials_bytes / (list.record_floats * 4 * shape.num_kv_heads);
  list.num_slots = partitions == 1 ? 0 : std::min(list.max_tiles * partitions, affordable);
  return list;
}

Layout layout_of(const LayerAttention& shape, const AttentionBounds& bounds) {
  PHALANX_CHECK_LE(bounds.num_sequences, kMostPlanSequences, "sequences of attention");
  Layout layout;
  layout.groups = query_groups(shape);
  layout.group_size = largest_group(shape, layout.groups);
  const auto place = [](int64_t& total, int64_t bytes) {
    const int64_t at = total;
    total += aligned(bytes);
    return at;
  };
  int64_t& scratch = layout.bytes.scratch;
  layout.row_arrivals_at = place(layout.bytes.counters, bounds.max_rows * 4);
  if (attention_has_tiles(shape.format, shape.head_dim)) {
    for (int i = 0; i < kAttentionLists; ++i) {
      ListLayout& list = layout.lists[i];
      list = list_layout(shape, bounds, layout.group_size, i == 1);
      list.pieces_at =
          place(layout.bytes.plan, list.max_pieces * static_cast<int64_t>(sizeof(AttentionPiece)));
      list.arrivals_at = place(layout.bytes.counters, shape.num_kv_heads * list.max_tiles * 4);
    }
    // One launch after the other: the lists share the partial results' memory.
    int64_t partials = 0;
    for (ListLayout& list : layout.lists) {
      list.partials_at = scratch;
      partials = std::max(partials, shape.num_kv_heads * list.num_slots * list.record_floats * 4);
    }
    scratch += aligned(partials);
  }
  layout.waiting_rows_at =
      place(scratch, bounds.max_rows * shape.num_query_heads * shape.head_dim * 4);
  return layout;
}

/// Output of tiles that hold up to `rows` heads of a group.
AttentionOutput output_of(const LayerAttention& shape, const Layout& layout,
                          const AttentionMemory& memory, const DeviceActivation& out,
                          int64_t rows) {
  AttentionOutput output{};
  output.out = out;
  output.num_cols = static_cast<int>(shape.num_query_heads * shape.head_dim);
  output.groups_in_tiles = true;
  for (int64_t i = 0; i < shape.num_kv_heads; ++i) {
    const int64_t heads = group_of(layout.groups, i);
    output.tiles_of_row += static_cast<uint32_t>(ceil_div(heads, rows));
    if (!has_groups(out.form)) continue;
    const int64_t tile_cols = std::min(heads, rows) * shape.head_dim;
    output.groups_in_tiles = output.groups_in_tiles && tile_cols % out.group_size == 0 &&
                             heads * shape.head_dim % out.group_size == 0;
  }
  output.waiting_rows = reinterpret_cast<float*>(memory.scratch + layout.waiting_rows_at);
  output.row_arrivals = reinterpret_cast<uint32_t*>(memory.counters + layout.row_arrivals_at);
  return output;
}

void launch_plain(const LayerAttention& shape, const AttentionBounds& bounds, ConstRows q,
                  const DeviceSequences& sequences, const KvLayerView& kv, const Layout& layout,
                  const AttentionMemory& memory, const DeviceActivation& out, Stream stream) {
  PlainAttention arguments{};
  arguments.q = {q.data, q.stride};
  arguments.sequences = sequences.data;
  arguments.num_sequences = static_cast<int>(sequences.count);
  arguments.pool = kv.data;
  arguments.block_bytes = kv_block_bytes(kv.format, kv.head_dim);
  arguments.num_kv_heads = static_cast<int>(kv.num_kv_heads);
  arguments.head_dim = static_cast<int>(kv.head_dim);
  arguments.groups = layout.groups;
  arguments.scale = shape.scale;
  arguments.sliding_window = static_cast<int>(shape.sliding_window);
  arguments.output = output_of(shape, layout, memory, out, 1);
  const LaunchShape launch_shape{
      dim3(static_cast<uint32_t>(bounds.max_rows), static_cast<uint32_t>(shape.num_query_heads)),
      dim3(kPlainThreads), plain_shared_bytes(shape.head_dim)};
  switch (shape.format) {
    case KvFormat::kF32:
      return launch(attend_plain<KvFormat::kF32>, launch_shape, stream, arguments);
    case KvFormat::kBf16:
      return launch(attend_plain<KvFormat::kBf16>, launch_shape, stream, arguments);
    case KvFormat::kInt8:
      return launch(attend_plain<KvFormat::kInt8>, launch_shape, stream, arguments);
  }
}

}  // namespace

bool attention_has_tiles(KvFormat format, int64_t head_dim) {
  return format != KvFormat::kF32 && is_head_dim_of_tiles(head_dim);
}

AttentionBytes attention_bytes(const LayerAttention& shape, const AttentionBounds& bounds) {
  return layout_of(shape, bounds).bytes;
}

void launch_attention_plan(const LayerAttention& shape, const AttentionBounds& bounds,
                           const DeviceSequences& sequences, const AttentionMemory& memory,
                           Stream stream) {
  if (bounds.max_rows == 0 || !attention_has_tiles(shape.format, shape.head_dim)) return;
  const Layout layout = layout_of(shape, bounds);
  AttentionPlanArguments arguments{};
  arguments.sequences = sequences.data;
  arguments.num_sequences = static_cast<int>(sequences.count);
  arguments.group_size = static_cast<int>(layout.group_size);
  arguments.sliding_window = static_cast<int>(shape.sliding_window);
  uint32_t num_lists = 0;
  for (const ListLayout& list : layout.lists) {
    if (list.max_tiles == 0) continue;
    AttentionList& to = arguments.lists[num_lists++];
    to.min_tokens = static_cast<int>(list.min_tokens);
    to.max_tokens = static_cast<int>(list.max_tokens);
    to.tokens_of_tile = static_cast<int>(list.tokens_of_tile);
    to.heads_of_tile = static_cast<int>(list.rows);
    to.target_pieces = static_cast<int>(list.target_pieces);
    to.max_pieces = static_cast<int>(list.max_pieces);
    to.num_slots = list.num_slots;
    to.pieces = reinterpret_cast<AttentionPiece*>(memory.plan + list.pieces_at);
  }
  launch(plan_attention<AttentionPlanArguments>,
         {dim3(num_lists), dim3(kPlanThreads), plan_shared_bytes(sequences.count)}, stream,
         arguments);
}

void launch_attention(const LayerAttention& shape, const AttentionBounds& bounds, ConstRows q,
                      const DeviceSequences& sequences, const KvLayerView& kv,
                      const AttentionMemory& memory, const DeviceActivation& out, Stream stream) {
  if (bounds.max_rows == 0) return;
  const Layout layout = layout_of(shape, bounds);
  if (!attention_has_tiles(shape.format, shape.head_dim)) {
    return launch_plain(shape, bounds, q, sequences, kv, layout, memory, out, stream);
  }
  for (int i = 0; i < kAttentionLists; ++i) {
    const ListLayout& list = layout.lists[i];
    if (list.max_tiles == 0) continue;
    AttentionArguments arguments{};
    arguments.q = {q.data, q.stride};
    arguments.pieces = reinterpret_cast<const AttentionPiece*>(memory.plan + list.pieces_at);
    arguments.pool = kv.data;
    arguments.block_bytes = kv_block_bytes(kv.format, kv.head_dim);
    arguments.groups = layout.groups;
    arguments.scale = shape.scale;
    arguments.sliding_window = static_cast<int>(shape.sliding_window);
    arguments.partials = reinterpret_cast<float*>(memory.scratch + list.partials_at);
    arguments.num_slots = list.num_slots;
    arguments.slot_rows = static_cast<int>(list.slot_rows);
    arguments.record_floats = static_cast<int>(list.record_floats);
    arguments.arrivals = reinterpret_cast<uint32_t*>(memory.counters + list.arrivals_at);
    arguments.max_tasks = static_cast<int>(list.max_tiles);
    arguments.output = output_of(shape, layout, memory, out, list.rows);
    const dim3 grid(static_cast<uint32_t>(list.max_pieces),
                    static_cast<uint32_t>(shape.num_kv_heads));
    const bool is_large = i == 1;
    switch (shape.format) {
      case KvFormat::kF32:
        break;  // has no tiles
      case KvFormat::kBf16:
        launch_bf16_tiles(shape.head_dim, is_large, arguments, grid, stream);
        break;
      case KvFormat::kInt8:
        launch_int8_tiles(shape.head_dim, is_large, arguments, grid, stream);
        break;
    }
  }
}

}  // namespace phalanx::kernels::cuda
