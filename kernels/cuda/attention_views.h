// What the attention kernels take: pieces of work, the arguments of a launch, where results go.
// Plain values, shared by the kernels and attention_launches.
//
// A tile is some tokens of one sequence with some query heads of one KV head: its rows, token by
// token. A tile's task is to walk the partitions of 128 tokens that its tokens see. A piece is a
// run of a task's partitions, walked by one block.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/row_views.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cuda {

/// All that a block must know before it can ask for keys: 64 bytes, one load away.
struct alignas(64) AttentionPiece {
  const int32_t* block_table;  ///< of the sequence
  int64_t first_row;           ///< of the step: the tile's first token
  int32_t first_position;      ///< of that token
  int32_t num_tokens;          ///< of the tile
  int32_t first_head;          ///< of the tile, counted from the group's first query head
  int32_t begin, end;          ///< the piece's partitions
  int32_t task_begin;          ///< the tile's first partition
  int32_t task;                ///< index of the tile in its list
  int32_t num_pieces;          ///< of the task; 1: this is all of it; 0: no piece
  int32_t first_slot;          ///< of task_begin in the partial results, if num_pieces > 1
};

/// Most KV heads of a rank: query heads [first[i], first[i + 1]) read KV head i.
inline constexpr int kMostKvHeads = 128;
struct QueryGroups {
  uint16_t first[kMostKvHeads + 1];
};

/// Where rows of the concatenated heads go, converted as convert_rows does.
struct AttentionOutput {
  DeviceActivation out;
  int num_cols;          ///< num_query_heads * head_dim
  bool groups_in_tiles;  ///< each group's columns are of one tile
  // Forms with groups, where they are not in tiles: rows wait as f32 for their last tile, which
  // converts them.
  float* waiting_rows;     ///< [R, num_cols]
  uint32_t* row_arrivals;  ///< [R], 0 between launches
  uint32_t tiles_of_row;   ///< that must arrive
};

struct AttentionArguments {
  ConstDeviceRows q;
  const AttentionPiece* pieces;
  const std::byte* pool;  ///< [blocks][num_kv_heads][block_bytes]
  int64_t block_bytes;
  QueryGroups groups;
  float scale;
  int sliding_window;  ///< 0: none
  // Partial results of tasks in several pieces: [kv head][slot][record_floats], a record being
  // values [slot_rows][head_dim], maxima [slot_rows], sums [slot_rows].
  float* partials;
  int64_t num_slots;
  int slot_rows;
  int record_floats;   ///< a multiple of 4
  uint32_t* arrivals;  ///< [kv head][max_tasks], 0 between launches
  int max_tasks;
  AttentionOutput output;
};

/// Arguments of the kernel for what has no tiles: a block a row and query head.
struct PlainAttention {
  ConstDeviceRows q;
  const SequenceRows* sequences;
  int num_sequences;
  const std::byte* pool;
  int64_t block_bytes;
  int num_kv_heads;
  int head_dim;
  QueryGroups groups;
  float scale;
  int sliding_window;
  AttentionOutput output;
};

}  // namespace phalanx::kernels::cuda
