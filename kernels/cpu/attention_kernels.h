// Attention of one tile of queries over one KV head, one table of functions per tier.
// Called by attention.cpp, which cuts a step into tiles and spreads them over threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/kv_block.h"
#include "kernels/cpu_backend.h"

namespace phalanx::kernels::cpu {

/// Query (row, head) pairs that share each load of keys and values.
inline constexpr int64_t kTilePairs = 32;

/// Tokens of an attention partition.
inline constexpr int64_t kPartitionTokens = kBlockTokens * kAttentionPartitionBlocks;

/// Consecutive pairs of one sequence that read one KV head, and the partitions to walk. Pair i is
/// row i / group_size (position first_position + i / group_size) and head i % group_size.
struct AttentionTile {
  const float* q = nullptr;  ///< row 0 of the sequence, first query head of the KV head
  int64_t q_stride = 0;
  float* y = nullptr;  ///< as q
  int64_t y_stride = 0;
  int64_t group_size = 0;  ///< query heads that read this KV head
  int64_t first_pair = 0;
  int64_t num_pairs = 0;  ///< 1 to kTilePairs
  int64_t first_position = 0;
  int64_t sliding_window = 0;  ///< 0: none
  float scale = 1.0F;
  const int32_t* block_table = nullptr;
  const std::byte* blocks = nullptr;  ///< block 0 of this KV head
  int64_t block_stride = 0;           ///< bytes from one block to the next
  const KvBlockLayout* layout = nullptr;
  int64_t first_partition = 0;
  int64_t end_partition = 0;

  /// Null: walk() merges as it goes and writes y. Else [end - first][num_pairs][padded_head_dim +
  /// kPartialTail]: walk() leaves each partition's result there, and merge() makes y of them.
  float* partials = nullptr;

  uint64_t* tally = nullptr;  ///< the walking thread's: one more for every partition
};

/// A partial result is padded_head_dim weighted values and kPartialTail floats: the maximum, the
/// sum of weights (0 when the query sees nothing of the partition), and padding.
inline constexpr int64_t kPartialTail = 16;

/// Every table gives the same bits. The functions do not throw and may run on any thread.
struct AttentionKernels {
  /// By KvFormat.
  void (*walk[3])(const AttentionTile& tile);
  void (*merge)(const AttentionTile& tile);
  /// ActivationForm::kS8's codes and scale of one row; num_cols is a multiple of 8.
  void (*quantize)(const float* x, int64_t num_cols, int8_t* codes, float* scale);
};

const AttentionKernels& attention_kernels(IsaTier tier);

const AttentionKernels& attention_kernels_portable();
const AttentionKernels& attention_kernels_avx2();    ///< only where CMake builds the x86 tiers
const AttentionKernels& attention_kernels_avx512();  ///< only where CMake builds the x86 tiers

}  // namespace phalanx::kernels::cpu
