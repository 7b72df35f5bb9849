// The kernel that cuts a step's attention into pieces of about equal length. Launched by
// attention_launches, once for all layers that have the same sliding window.
//
// Results do not depend on the cut: partial results are kept for each partition and merged in
// ascending order. So it follows the contexts of the step, which are read from device memory, and
// shrinks to fit the memory that partial results have.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_views.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/kv_layout.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

inline constexpr int kPlanThreads = 256;

/// The pieces of one kernel: of the sequences with min_tokens to max_tokens rows in this step.
struct AttentionList {
  int min_tokens, max_tokens;
  int tokens_of_tile;
  int heads_of_tile;
  int target_pieces;       ///< of one KV head, at least so many if there are as many partitions
  int max_pieces;          ///< what `pieces` holds: target_pieces + the most tiles there can be
  int64_t num_slots;       ///< of partial results
  AttentionPiece* pieces;  ///< all of them are written
};
inline constexpr int kAttentionLists = 2;

struct AttentionPlanArguments {
  const SequenceRows* sequences;
  int num_sequences;
  int group_size;  ///< the largest one
  int sliding_window;
  AttentionList lists[kAttentionLists];  ///< one a block
};

constexpr size_t plan_shared_bytes(int64_t num_sequences) {
  return static_cast<size_t>(4 + 3 * num_sequences) * sizeof(int);
}

/// Sum of the lanes before and this one's.
__device__ __forceinline__ int inclusive_sum_of_warp(int value) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int distance = 1; distance < 32; distance *= 2) {
    const int before = __shfl_up_sync(kAllLanes, value, static_cast<unsigned int>(distance));
    if (lane >= distance) value += before;
  }
  return value;
}

/// What one sequence puts into a list.
struct TilesOfSequence {
  SequenceRows sequence;
  int num_chunks;  ///< of heads
  int num_tiles;

  __device__ TilesOfSequence(const SequenceRows& s, const AttentionList& list, int group_size)
      : sequence(s),
        num_chunks((group_size + list.heads_of_tile - 1) / list.heads_of_tile),
        num_tiles(0) {
    if (s.num_rows < list.min_tokens || s.num_rows > list.max_tokens) return;
    const int num_tokens = static_cast<int>(s.num_rows);
    num_tiles = (num_tokens + list.tokens_of_tile - 1) / list.tokens_of_tile * num_chunks;
  }

  /// Tile i as one piece. The last tokens come first: they see most.
  __device__ AttentionPiece task(int i, const AttentionList& list, int sliding_window) const {
    AttentionPiece task{};
    const int first_token = (num_tiles - 1 - i) / num_chunks * list.tokens_of_tile;
    task.block_table = sequence.block_table;
    task.first_row = sequence.first_row + first_token;
    task.first_position = static_cast<int>(sequence.first_position) + first_token;
    task.num_tokens = min(list.tokens_of_tile, static_cast<int>(sequence.num_rows) - first_token);
    task.first_head = (num_tiles - 1 - i) % num_chunks * list.heads_of_tile;
    task.begin = oldest_token(task.first_position, sliding_window) / kTokensOfPartition;
    task.end = (task.first_position + task.num_tokens - 1) / kTokensOfPartition + 1;
    task.task_begin = task.begin;
    return task;
  }
};

/// Block i fills list i. A task of more partitions than the quota is cut in pieces of that length;
/// the quota is what gives target_pieces, or more if partial results had no room.
template <typename Arguments = AttentionPlanArguments>
__global__ void __launch_bounds__(kPlanThreads) plan_attention(Arguments a) {
  const AttentionList& list = a.lists[blockIdx.x];
  auto* total = shared_memory<int>();  // of partitions; of slots
  int* pieces_of = total + 4;          // [num_sequences], then where they begin
  int* slots_of = pieces_of + a.num_sequences;
  int* tasks_of = slots_of + a.num_sequences;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  constexpr int kWarps = kPlanThreads / 32;

  if (threadIdx.x < 2) total[threadIdx.x] = 0;
  __syncthreads();
  for (int s = warp; s < a.num_sequences; s += kWarps) {
    const TilesOfSequence tiles(a.sequences[s], list, a.group_size);
    int sum = 0;
    for (int i = lane; i < tiles.num_tiles; i += 32) {
      const AttentionPiece task = tiles.task(i, list, a.sliding_window);
      sum += task.end - task.begin;
    }
    sum = sum_of_warp(sum);
    if (lane == 0) atomicAdd(total, sum);
  }
  __syncthreads();
  int quota = max((total[0] + list.target_pieces - 1) / list.target_pieces, 1);

  for (;; quota *= 2) {
    for (int s = warp; s < a.num_sequences; s += kWarps) {
      const TilesOfSequence tiles(a.sequences[s], list, a.group_size);
      int pieces = 0;
      int slots = 0;
      for (int i = lane; i < tiles.num_tiles; i += 32) {
        const AttentionPiece task = tiles.task(i, list, a.sliding_window);
        const int length = task.end - task.begin;
        pieces += (length + quota - 1) / quota;
        slots += length > quota ? length : 0;
      }
      pieces = sum_of_warp(pieces);
      slots = sum_of_warp(slots);
      if (lane == 0) {
        pieces_of[s] = pieces;
        slots_of[s] = slots;
        tasks_of[s] = tiles.num_tiles;
        atomicAdd(total + 1, slots);
      }
    }
    __syncthreads();
    const bool fits = total[1] <= list.num_slots;
    __syncthreads();
    if (fits) break;
    if (threadIdx.x == 0) total[1] = 0;
    __syncthreads();
  }

  if (warp == 0) {  // counts become beginnings
    int pieces = 0;
    int slots = 0;
    int tasks = 0;
    for (int first = 0; first < a.num_sequences; first += 32) {
      const int s = first + lane;
      const bool is_one = s < a.num_sequences;
      const int pieces_end = pieces + inclusive_sum_of_warp(is_one ? pieces_of[s] : 0);
      const int slots_end = slots + inclusive_sum_of_warp(is_one ? slots_of[s] : 0);
      const int tasks_end = tasks + inclusive_sum_of_warp(is_one ? tasks_of[s] : 0);
      if (is_one) {
        pieces_of[s] = pieces_end - pieces_of[s];
        slots_of[s] = slots_end - slots_of[s];
        tasks_of[s] = tasks_end - tasks_of[s];
      }
      pieces = __shfl_sync(kAllLanes, pieces_end, 31);
      slots = __shfl_sync(kAllLanes, slots_end, 31);
      tasks = __shfl_sync(kAllLanes, tasks_end, 31);
    }
    if (pieces > list.max_pieces) __trap();  // the launch's bounds were wrong
    if (lane == 0) total[0] = pieces;
  }
  __syncthreads();

  for (int i = total[0] + static_cast<int>(threadIdx.x); i < list.max_pieces; i += kPlanThreads) {
    list.pieces[i] = AttentionPiece{};
  }
  for (int s = warp; s < a.num_sequences; s += kWarps) {
    const TilesOfSequence tiles(a.sequences[s], list, a.group_size);
    int piece_base = pieces_of[s];
    int slot_base = slots_of[s];
    for (int first = 0; first < tiles.num_tiles; first += 32) {
      const int i = first + lane;
      const bool is_one = i < tiles.num_tiles;
      AttentionPiece piece = tiles.task(is_one ? i : 0, list, a.sliding_window);
      const int task_end = piece.end;
      const int length = is_one ? task_end - piece.begin : 0;
      const int num_pieces = (length + quota - 1) / quota;
      const int num_slots = length > quota ? length : 0;
      const int pieces_end = piece_base + inclusive_sum_of_warp(num_pieces);
      const int slots_end = slot_base + inclusive_sum_of_warp(num_slots);
      piece.task = tasks_of[s] + i;
      piece.num_pieces = num_pieces;
      piece.first_slot = slots_end - num_slots;
      for (int p = 0; p < num_pieces; ++p) {
        piece.begin = piece.task_begin + p * quota;
        piece.end = min(piece.begin + quota, task_end);
        list.pieces[pieces_end - num_pieces + p] = piece;
      }
      piece_base = __shfl_sync(kAllLanes, pieces_end, 31);
      slot_base = __shfl_sync(kAllLanes, slots_end, 31);
    }
  }
}

}  // namespace phalanx::kernels::cuda
