// The kernel of attention over paged keys and values, for decode and prefill alike. Launched by
// attention_launches; the work of each block is laid out by plan_attention.
//
// A block has the queries of a tile (tokens x query heads of one KV head) as rows of its products,
// so that each key and value comes from memory once for all of them. For each partition of 128
// tokens: scores (warps share the tokens), weights (16 lanes a row, through shared memory), results
// of the partition (warps share the dimensions), which are merged into the total in registers. What
// happens to a row does not depend on the tile's other rows, so decode and prefill give it the same
// bits. Keys and values pass through a ring of stages of 64 tokens, copied by cp.async as they lie
// in their KV blocks.
//
// Bytes in flight: 3.35 TB/s over a latency of about 0.8 us are 2.7 MB, 20 KiB for each of 132 SMs.
// A decode block of head_dim 128 in bf16 has 5 stages of 16 KiB on their way and an SM two such
// blocks: 160 KiB (int8: 80 KiB). A partition of it, 64 KiB, is the share of one SM in 2.6 us or
// 4500 cycles; two blocks have as many for each of theirs, and their work on it, of 64 products a
// warp, is a few hundred instructions a warp between six barriers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention_output.h"
#include "kernels/cuda/attention_plan_kernels.h"
#include "kernels/cuda/attention_softmax.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/attention_views.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// Fills the ring. Stage number i of a piece: partition begin + i / 4; of it the keys' halves, then
/// the values' halves.
template <typename Tile>
struct StageLoader {
  using Body = typename Tile::Body;
  const AttentionArguments& arguments;
  const int32_t* block_table;
  int first_partition;
  int num_stages;
  int oldest, end;             ///< the tokens that the tile sees
  int next = 0;                ///< stage to be issued
  int32_t ids[kPagesOfStage];  ///< of its KV blocks; -1: not seen

  __device__ __forceinline__ StageLoader(const AttentionArguments& a, const AttentionPiece& piece)
      : arguments(a),
        block_table(piece.block_table),
        first_partition(piece.begin),
        num_stages((piece.end - piece.begin) * 2 * kStagesOfPart),
        oldest(oldest_token(piece.first_position, a.sliding_window)),
        end(piece.first_position + piece.num_tokens) {
    look_up();
  }

  static __device__ __forceinline__ bool is_of_values(int stage) {
    return stage % (2 * kStagesOfPart) >= kStagesOfPart;
  }
  __device__ __forceinline__ int partition(int stage) const {
    return first_partition + stage / (2 * kStagesOfPart);
  }
  __device__ __forceinline__ int first_token(int stage) const {
    return partition(stage) * kTokensOfPartition + stage % kStagesOfPart * kStageTokens;
  }
  __device__ __forceinline__ bool is_seen(int stage) const {
    return first_token(stage) < end && first_token(stage) + kStageTokens > oldest;
  }
  static __device__ __forceinline__ std::byte* data(int stage) {
    return shared_memory<std::byte>() + stage % Tile::kStages * Tile::kStageBytes;
  }
  /// [128] scales of the keys (part 0) or values (part 1).
  static __device__ __forceinline__ float* scales_of(int partition, int part) {
    return reinterpret_cast<float*>(shared_memory<std::byte>() + Tile::kScalesAt) +
           (partition % 2 * 2 + part) * kTokensOfPartition;
  }

  /// Reads the block ids of the next stage, long before its copies want them.
  __device__ __forceinline__ void look_up() {
    PHALANX_UNROLL
    for (int page = 0; page < kPagesOfStage; ++page) {
      const int token = first_token(next) + page * kTokensOfBlock;
      const bool seen = next < num_stages && token < end && token + kTokensOfBlock > oldest;
      ids[page] = seen ? block_table[token / kTokensOfBlock] : -1;
    }
  }

  /// Starts the copies of the next stage, as one group; an empty one beyond the last stage.
  __device__ __forceinline__ void issue() {
    if (next < num_stages && is_seen(next)) {
      const bool of_values = is_of_values(next);
      std::byte* to = data(next);
      constexpr int kPageBytes = Tile::kStageBytes / kPagesOfStage;
      PHALANX_UNROLL
      for (int page = 0; page < kPagesOfStage; ++page) {
        const bool is_there = ids[page] >= 0;
        const int64_t place = int64_t{is_there ? ids[page] : 0} * gridDim.y + blockIdx.y;
        const std::byte* block = arguments.pool + place * arguments.block_bytes;
        const std::byte* from = block + (of_values ? kPageBytes : 0);
        std::byte* page_to = to + page * kPageBytes;
        const int token = first_token(next) + page * kTokensOfBlock;
        if (!is_there && !(of_values && Body::kZeroUnseenValues)) continue;
        PHALANX_ROLLED
        for (int i = static_cast<int>(threadIdx.x); i < kPageBytes / 16; i += Tile::kThreads) {
          if constexpr (Body::kZeroUnseenValues) {
            // Pieces are 8 dimensions of a token: D of them are 8 tokens.
            const int t = token + i / Body::kHeadDim * 8 + i % 8;
            cp_async_16_or_zero(page_to + i * 16, from + i * 16,
                                is_there && t >= oldest && t < end);
          } else {
            cp_async_16(page_to + i * 16, from + i * 16);
          }
        }
        if constexpr (Body::kHasScales) {
          // With the keys: [32] scales of keys, [32] of values, 8 pieces each.
          constexpr int kPieces = kTokensOfBlock / 4;
          const int i = static_cast<int>(threadIdx.x);
          if (!of_values && i < 2 * kPieces) {
            float* scales_to = scales_of(partition(next), i / kPieces) +
                               token % kTokensOfPartition + i % kPieces * 4;
            cp_async_16(scales_to,
                        block + key_scales_offset<Body::kFormat>(Body::kHeadDim) + i * 16);
          }
        }
      }
    }
    cp_async_commit();
    ++next;
    look_up();
  }
};

/// Sums of a partition, and totals: of the warp's rows and dimensions, as products leave them.
template <typename Tile, typename T>
using Accumulators = T[Tile::kRowTiles][Tile::kDimPairs][2][4];

/// Calls use(m, p, n, h, row, d) for the pairs of neighbouring elements 2h, 2h + 1 that the lane
/// holds of sums[m][p][n]: dimensions d and d + 1 of `row`.
template <typename Tile, typename Use>
__device__ __forceinline__ void for_each_pair(Use use) {
  const WarpPlace<Tile> at;
  PHALANX_UNROLL
  for (int m = 0; m < Tile::kRowTiles; ++m) {
    PHALANX_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int row = at.first_row + m * 16 + h * 8 + at.group;
      PHALANX_UNROLL
      for (int p = 0; p < Tile::kDimPairs; ++p) {
        const int pair = at.column * Tile::kDimPairs + p;
        if (pair * 16 >= Tile::kHeadDim) continue;
        PHALANX_UNROLL
        for (int n = 0; n < 2; ++n) use(m, p, n, h, row, pair * 16 + n * 8 + at.member * 2);
      }
    }
  }
}

/// The partial results of one partition of a task.
struct PartialRecord {
  float* values;  ///< [slot_rows][head_dim]
  float* maxima;  ///< [slot_rows]
  float* sums;    ///< [slot_rows]
};
__device__ __forceinline__ PartialRecord partial_record(const AttentionArguments& a,
                                                        const AttentionPiece& piece, int partition,
                                                        int head_dim) {
  const int64_t slot = static_cast<int64_t>(blockIdx.y) * a.num_slots + piece.first_slot +
                       (partition - piece.task_begin);
  float* values = a.partials + slot * a.record_floats;
  return {values, values + a.slot_rows * head_dim, values + a.slot_rows * (head_dim + 1)};
}

/// Merges a task's partial results, ascending, into results [num_rows][head_dim]. For 32 partitions
/// at a time: factors (a warp a row, a lane a partition; a running maximum is the same in any
/// order), then sums (a thread a row) and values, 16 loads of 16 bytes a thread on their way: 32
/// KiB of a block, which is what an SM takes from L2 (64 bytes a cycle) within its latency.
/// `scores`: the block's, free by now.
template <typename Tile>
__device__ __forceinline__ void merge_partials(const AttentionArguments& a,
                                               const RowState<Tile>& rows, std::byte* scores,
                                               const AttentionPiece& piece, int num_rows,
                                               float* results) {
  constexpr int kQuads = Tile::kHeadDim / 4;
  constexpr int kChunk = 32;
  constexpr int kAtOnce = 16;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const auto factors_of = [&](int row) {  // [3][kChunk]: of the total, the part, and for sums
    return reinterpret_cast<float*>(scores) + row * kScoreRowFloats;
  };
  static_assert(3 * kChunk <= kScoreRowFloats);
  if (thread < num_rows) rows.maximum[thread] = -__builtin_huge_valf();
  __syncthreads();
  const int task_end = (piece.first_position + piece.num_tokens - 1) / kTokensOfPartition + 1;
  PHALANX_ROLLED
  for (int first = piece.task_begin; first < task_end; first += kChunk) {
    PHALANX_ROLLED
    for (int row = thread / 32; row < num_rows; row += Tile::kWarps) {
      const PartitionsSeen seen = partitions_seen(rows.position[row], a.sliding_window);
      float part_maximum = -__builtin_huge_valf();
      float part_sum = 0.0F;
      if (seen.has(first + lane)) {
        const PartialRecord record = partial_record(a, piece, first + lane, Tile::kHeadDim);
        part_maximum = record.maxima[row];
        part_sum = record.sums[row];
      }
      const float maximum_before = rows.maximum[row];
      float maximum = part_maximum;
      PHALANX_UNROLL
      for (int distance = 1; distance < kChunk; distance *= 2) {
        const float other = __shfl_up_sync(kAllLanes, maximum, static_cast<unsigned int>(distance));
        if (lane >= distance && maximum < other) maximum = other;
      }
      maximum = maximum < maximum_before ? maximum_before : maximum;
      float before = __shfl_up_sync(kAllLanes, maximum, 1);
      if (lane == 0) before = maximum_before;
      const float part_factor = exp_as_on_cpu(part_maximum - maximum);
      float* factors = factors_of(row);
      factors[lane] = exp_as_on_cpu(before - maximum);
      factors[kChunk + lane] = part_factor;
      factors[2 * kChunk + lane] = part_sum * part_factor;
      __syncwarp();
      if (lane == kChunk - 1) rows.maximum[row] = maximum;
    }
    __syncthreads();
    if (thread < num_rows) {
      const PartitionsSeen seen = partitions_seen(rows.position[thread], a.sliding_window);
      const float* factors = factors_of(thread);
      float sum = rows.sum[thread];
      for (int j = 0; j < kChunk; ++j) {
        if (!seen.has(first + j)) continue;
        const float part = factors[2 * kChunk + j];
        sum = first + j == seen.first ? part : __fmaf_rn(sum, factors[j], part);
      }
      rows.sum[thread] = sum;
    }
    PHALANX_ROLLED
    for (int i = thread; i < num_rows * kQuads; i += Tile::kThreads) {
      const int row = i / kQuads;
      const PartitionsSeen seen = partitions_seen(rows.position[row], a.sliding_window);
      const int end = min(first + kChunk, seen.end);
      const float* factors = factors_of(row);
      float4 total = reinterpret_cast<const float4*>(results)[i];
      PHALANX_ROLLED
      for (int partition = max(first, seen.first); partition < end; partition += kAtOnce) {
        float4 parts[kAtOnce];
        PHALANX_UNROLL
        for (int j = 0; j < kAtOnce; ++j) {
          const PartialRecord record =
              partial_record(a, piece, min(partition + j, end - 1), Tile::kHeadDim);
          parts[j] = reinterpret_cast<const float4*>(record.values)[i];
        }
        PHALANX_UNROLL
        for (int j = 0; j < kAtOnce; ++j) {
          const int at = partition + j - first;
          if (partition + j >= end) continue;
          if (partition + j == seen.first) {
            total = parts[j];
            continue;
          }
          const MergeFactors both{factors[at], factors[kChunk + at]};
          total.x = merge_values(total.x, parts[j].x, both);
          total.y = merge_values(total.y, parts[j].y, both);
          total.z = merge_values(total.z, parts[j].z, both);
          total.w = merge_values(total.w, parts[j].w, both);
        }
      }
      reinterpret_cast<float4*>(results)[i] = total;
    }
    __syncthreads();
  }
  for (int i = thread; i < num_rows * kQuads; i += Tile::kThreads) {
    const float inverse = __fdiv_rn(1.0F, rows.sum[i / kQuads]);
    float4& total = reinterpret_cast<float4*>(results)[i];
    total = make_float4(total.x * inverse, total.y * inverse, total.z * inverse, total.w * inverse);
  }
}

/// The query heads of a tile: the rows of its products are tokens x heads.
struct TileHeads {
  int first;
  int count;

  template <typename Tile>
  static __device__ __forceinline__ TileHeads of(const AttentionArguments& a,
                                                 const AttentionPiece& piece) {
    const int first = a.groups.first[blockIdx.y] + piece.first_head;
    return {first, min(a.groups.first[blockIdx.y + 1] - first, Tile::kRows)};
  }
};

/// Counts this piece in; whether it is the last one of its task, and all others' partial results
/// are there to be read. `word`: shared memory.
__device__ __forceinline__ bool is_last_piece(const AttentionArguments& a,
                                              const AttentionPiece& piece, int* word) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* arrivals = a.arrivals + static_cast<int>(blockIdx.y) * a.max_tasks + piece.task;
    const bool is_last = atomicAdd(arrivals, 1U) == static_cast<uint32_t>(piece.num_pieces) - 1;
    if (is_last) *arrivals = 0;
    *word = is_last ? 1 : 0;
  }
  __syncthreads();
  const bool is_last = *word != 0;
  __threadfence();
  return is_last;
}

/// Block (i, h): piece i, KV head h.
template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksOfSm)
    attend_tile(AttentionArguments a) {
  using Body = typename Tile::Body;
  // Read again where it is wanted, rather than kept in registers.
  const AttentionPiece& piece = a.pieces[blockIdx.x];
  const bool is_whole = piece.num_pieces == 1;
  if (piece.num_pieces == 0 || TileHeads::of<Tile>(a, piece).count <= 0) return;

  auto* shared = shared_memory<std::byte>();
  std::byte* queries = shared + Tile::kQueriesAt;
  std::byte* scores = shared + Tile::kScoresAt;
  const RowState<Tile> rows(shared);
  StageLoader<Tile> loader(a, piece);
  PHALANX_ROLLED
  for (int i = 0; i < Tile::kStages - 1; ++i) loader.issue();
  {
    const TileHeads heads = TileHeads::of<Tile>(a, piece);
    const int num_rows = piece.num_tokens * heads.count;
    for (int row = static_cast<int>(threadIdx.x); row < Tile::kRows; row += Tile::kThreads) {
      rows.position[row] = row < num_rows ? piece.first_position + row / heads.count : -1;
      rows.sum[row] = -1.0F;
    }
    const int64_t first_row = piece.first_row;
    Body::template load_queries<Tile>(queries, rows.query_scale, num_rows, a.scale, [&](int row) {
      return a.q.data + (first_row + row / heads.count) * a.q.stride +
             (heads.first + row % heads.count) * Tile::kHeadDim;
    });
  }

  // Before a stage is worked on: its copies have arrived, and all are done with the stage before,
  // whose place takes the next copies.
  const auto next_stage = [&] {
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();
    loader.issue();
  };
  Accumulators<Tile, float> totals = {};
  PHALANX_ROLLED
  for (int stage = 0; stage < loader.num_stages;) {
    const int partition = loader.partition(stage);
    PHALANX_ROLLED
    for (int half = 0; half < kStagesOfPart; ++half, ++stage) {
      next_stage();
      if (!loader.is_seen(stage)) continue;
      Body::template score<Tile>(loader.data(stage), queries, reinterpret_cast<float*>(scores),
                                 loader.scales_of(partition, 0), rows.query_scale, half);
    }
    __syncthreads();
    {
      PartialRecord record{};
      if (!is_whole) record = partial_record(a, piece, partition, Tile::kHeadDim);
      weigh<Tile>(rows, scores, loader.scales_of(partition, 1), partition, a.sliding_window,
                  record.maxima, record.sums);
    }
    Accumulators<Tile, typename Body::Sum> sums = {};
    PHALANX_ROLLED
    for (int half = 0; half < kStagesOfPart; ++half, ++stage) {
      next_stage();
      if (!loader.is_seen(stage)) continue;
      const TileTokens tokens{rows.position, piece.first_position, piece.num_tokens,
                              a.sliding_window, loader.first_token(stage)};
      Body::template gather<Tile>(loader.data(stage), scores, half, tokens, sums);
    }
    if (is_whole) {
      for_each_pair<Tile>([&](int m, int p, int n, int h, int row, int /*d*/) {
        const MergeFactors factors{rows.total_factor[row], rows.part_factor[row]};
        const float scale = rows.part_scale[row];
        PHALANX_UNROLL
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          float& total = totals[m][p][n][i];
          const float part = Body::part_of(sums[m][p][n][i], scale);
          if (factors.total < 0.0F) {
            total = part;
          } else if (!(factors.part < 0.0F)) {
            total = merge_values(total, part, factors);
          }
        }
      });
    } else {
      float* values = partial_record(a, piece, partition, Tile::kHeadDim).values;
      for_each_pair<Tile>([&](int m, int p, int n, int h, int row, int d) {
        if (rows.position[row] < 0) return;
        const float scale = rows.part_scale[row];
        *reinterpret_cast<float2*>(values + row * Tile::kHeadDim + d) =
            make_float2(Body::part_of(sums[m][p][n][2 * h], scale),
                        Body::part_of(sums[m][p][n][2 * h + 1], scale));
      });
    }
  }
  cp_async_wait_all();

  const TileHeads heads = TileHeads::of<Tile>(a, piece);
  auto* results = reinterpret_cast<float*>(shared);
  if (is_whole) {
    __syncthreads();  // all are done with the ring
    for_each_pair<Tile>([&](int m, int p, int n, int h, int row, int d) {
      if (rows.position[row] < 0) return;
      const float inverse = __fdiv_rn(1.0F, rows.sum[row]);
      *reinterpret_cast<float2*>(results + row * Tile::kHeadDim + d) =
          make_float2(totals[m][p][n][2 * h] * inverse, totals[m][p][n][2 * h + 1] * inverse);
    });
  } else {
    if (!is_last_piece(a, piece, rows.is_last)) return;
    merge_partials<Tile>(a, rows, scores, piece, piece.num_tokens * heads.count, results);
  }
  __syncthreads();
  store_tile(results,
             {piece.first_row, piece.num_tokens, heads.first * Tile::kHeadDim,
              heads.count * Tile::kHeadDim},
             a.output, rows.is_last);
}

}  // namespace phalanx::kernels::cuda
