// Sums over the ranks of a group through peer memory, fused with what follows a row-parallel
// linear: residual addition, RMS norm and conversion for the next linear. Launched by
// peer_group.cu. The same bits as add_rms_norm over the parts (row_kernels.h), by either kernel, on
// every rank.
//
// Shape symbols: R rows, K columns. A block takes whole rows, since a norm wants one, and its reads
// of a row go through one multiprocessor: so many of them are in flight. A thread has up to 16
// vectors of 16 bytes under way, a block of 512 threads 128 KiB, which at 2 us across NVLink are 64
// GB/s; 7 blocks fill the 450 GB/s of an H100. One row of K = 8192 from 7 peers is 224 KiB, about 4
// us.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/peer_meeting.h"
#include "kernels/cuda/row_kernels.h"
#include "kernels/cuda/row_views.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// Of a block at most; it takes less when a thread has no vector of the row.
inline constexpr int kMostReduceThreads = 512;

/// Rows of part of a conversion, which a rank pushes to the others: codes, scales or sums.
struct PushedRows {
  int64_t offset;     ///< bytes from the start of every region to row 0
  int64_t row_bytes;  ///< a row, and the distance of rows
};

/// The arguments of an all-reduce.
struct PeerReduce {
  PeerSide peers;
  int64_t part_offset;  ///< bytes from the start of every region to its part [R, K]
  int64_t num_rows;
  int64_t num_cols;
  bool by_vectors;      ///< all rows of floats start at multiples of 16 bytes
  bool adds_residual;   ///< else residual = sum: a plain all-reduce
  DeviceRows residual;  ///< [R, K]; += sum over ranks (+ bias)
  const float* bias;    ///< [K] or null
  const float* weight;  ///< [K]; null: no norm, nothing is converted
  float eps;
  DeviceActivation
      out;  ///< rms_norm(residual) * weight, in this rank's region when rows are shared

  // of all_reduce_two_shot only
  PushedRows pushed[3];  ///< what out's rows are made of; row_bytes 0: not there
  bool shares_residual;  ///< others get the residual's rows, too; needs a part that no other call
                         ///< uses
};

/// Rows [begin, end) that a rank owns when rows are shared: the first of a rank.
__host__ __device__ constexpr int64_t first_row_of(int64_t num_rows, int rank, int size) {
  return num_rows * rank / size;
}

__device__ __forceinline__ float plus(float a, float b) { return a + b; }
__device__ __forceinline__ float4 plus(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/// The sum over ranks of one word, as the tree of sum_of_parts.
template <int kRanks, typename Word>
__device__ __forceinline__ Word tree_sum(Word (&words)[kRanks]) {
  for (int distance = 1; distance < kRanks; distance *= 2) {
    for (int i = 0; i + distance < kRanks; i += 2 * distance)
      words[i] = plus(words[i], words[i + distance]);
  }
  return words[0];
}

/// The residual of a row, into memory and, for a norm, into shared memory. Word: float or float4.
/// The block may write `values` again after a barrier.
template <int kRanks, typename Word>
__device__ __forceinline__ void add_row(const PeerReduce& a, int64_t row, float* values) {
  constexpr int kColumns = kRanks == kMostParts ? 2 : 4;  // at a time: 128 registers hold 16 words
  const auto num_words = static_cast<int>(a.num_cols * static_cast<int64_t>(sizeof(float)) /
                                          static_cast<int64_t>(sizeof(Word)));
  const int64_t part_offset =
      a.part_offset + row * a.num_cols * static_cast<int64_t>(sizeof(float));
  auto* residual = reinterpret_cast<Word*>(a.residual.data + row * a.residual.stride);
  const auto* bias = reinterpret_cast<const Word*>(a.bias);
  const auto step = static_cast<int>(blockDim.x);
  for (auto first = static_cast<int>(threadIdx.x); first < num_words; first += step * kColumns) {
    Word words[kColumns][kRanks];
    for (int c = 0; c < kColumns; ++c) {
      const int k = first + c * step;
      for (int i = 0; i < kRanks; ++i) {
        if (k < num_words)
          words[c][i] = reinterpret_cast<const Word*>(a.peers.regions[i] + part_offset)[k];
      }
    }
    for (int c = 0; c < kColumns; ++c) {
      const int k = first + c * step;
      if (k >= num_words) break;
      Word value = tree_sum<kRanks>(words[c]);
      if (bias != nullptr) value = plus(value, bias[k]);
      if (a.adds_residual) value = plus(residual[k], value);
      residual[k] = value;
      if (a.weight != nullptr) reinterpret_cast<Word*>(values)[k] = value;
    }
  }
}

template <int kRanks>
__device__ __forceinline__ void add_row(const PeerReduce& a, int64_t row, float* values) {
  if (a.by_vectors) {
    add_row<kRanks, float4>(a, row, values);
  } else {
    add_row<kRanks, float>(a, row, values);
  }
}

/// Every rank adds up all rows: one meeting.
///
/// A part may be written again after the next all-reduce of the group but one. Say call n reads
/// part A, call n + 1 part B, and before call n + 2 a linear of this rank writes part A: this
/// rank's call n + 1 has ended, in which every other rank had come to its call n + 1, hence ended
/// its call n in the order of its stream, and with it its reads. So two parts in turns need no
/// meeting after the reads. (This wants kernels of a stream to begin after those before have ended:
/// no programmatic dependent launch of these.)
template <int kRanks>
__global__ void __launch_bounds__(kMostReduceThreads)
    all_reduce_one_shot(const __grid_constant__ PeerReduce a) {
  float* values = shared_memory<float>();
  const uint32_t meeting = first_meeting(a.peers);
  if (!meet_peers(a.peers, meeting)) return;
  count_meetings(a.peers, meeting);
  for (auto row = static_cast<int64_t>(blockIdx.x); row < a.num_rows; row += gridDim.x) {
    add_row<kRanks>(a, row, values);
    if (a.weight == nullptr) {
      __syncthreads();
      report_failure(a.peers);
    } else {
      normalize_row(values, a.num_cols, a.weight, a.eps);
      report_failure(a.peers);  // its load is under way while the others convert
      store_row(values, row, a.num_cols, a.out);
      __syncthreads();
    }
  }
}

/// Words from `source` to `target_offset` of every other rank's region, by all threads of the
/// block.
template <typename Word, int kRanks>
__device__ __forceinline__ void push_words(const PeerSide& peers, const Word* source,
                                           int64_t target_offset, int64_t num_words) {
  for (auto i = static_cast<int64_t>(threadIdx.x); i < num_words; i += blockDim.x) {
    const Word word = source[i];
    for (int rank = 0; rank < kRanks; ++rank) {
      if (rank == peers.rank) continue;
      reinterpret_cast<Word*>(peers.regions[rank] + target_offset)[i] = word;
    }
  }
}

template <int kRanks>
__device__ __forceinline__ void push_bytes(const PeerSide& peers, const void* source,
                                           int64_t target_offset, int64_t bytes) {
  const uint64_t alignment = static_cast<uint64_t>(target_offset) |
                             reinterpret_cast<uintptr_t>(source) | static_cast<uint64_t>(bytes);
  if (alignment % sizeof(uint4) == 0) {
    push_words<uint4, kRanks>(peers, static_cast<const uint4*>(source), target_offset,
                              bytes / static_cast<int64_t>(sizeof(uint4)));
  } else if (alignment % sizeof(uint32_t) == 0) {
    push_words<uint32_t, kRanks>(peers, static_cast<const uint32_t*>(source), target_offset,
                                 bytes / static_cast<int64_t>(sizeof(uint32_t)));
  } else {
    push_words<uint8_t, kRanks>(peers, static_cast<const uint8_t*>(source), target_offset, bytes);
  }
}

/// Hands row `row` of this rank around: its conversion to the same place of every region, and its
/// residual to the place of the others' parts that only this rank has read.
template <int kRanks>
__device__ __forceinline__ void push_row(const PeerReduce& a, int64_t row) {
  if (a.weight != nullptr) {
    for (const PushedRows& rows : a.pushed) {
      if (rows.row_bytes == 0) continue;
      const int64_t offset = rows.offset + row * rows.row_bytes;
      push_bytes<kRanks>(a.peers, a.peers.regions[a.peers.rank] + offset, offset, rows.row_bytes);
    }
  }
  if (a.shares_residual) {
    const int64_t row_bytes = a.num_cols * static_cast<int64_t>(sizeof(float));
    push_bytes<kRanks>(a.peers, a.residual.data + row * a.residual.stride,
                       a.part_offset + row * row_bytes, row_bytes);
  }
}

/// The residual's rows that the others' blocks blockIdx.x pushed, from this rank's part.
template <int kRanks>
__device__ __forceinline__ void take_residual_rows(const PeerReduce& a) {
  const auto* part = reinterpret_cast<const float*>(a.peers.regions[a.peers.rank] + a.part_offset);
  for (int rank = 0; rank < kRanks; ++rank) {
    if (rank == a.peers.rank) continue;
    const int64_t end = first_row_of(a.num_rows, rank + 1, kRanks);
    for (int64_t row = first_row_of(a.num_rows, rank, kRanks) + blockIdx.x; row < end;
         row += gridDim.x) {
      for (auto k = static_cast<int64_t>(threadIdx.x); k < a.num_cols; k += blockDim.x)
        a.residual.data[row * a.residual.stride + k] = part[row * a.num_cols + k];
    }
  }
}

/// Every rank adds up its own rows and hands their conversions around: two meetings. Of the
/// residual only its own rows change, unless it is shared.
///
/// When this rank's kernel has ended, every block of every rank has come to the second meeting,
/// with its reads of parts before it: parts may be written again at once. Rows that were handed
/// around stay until a later call in which this rank takes part: others push only after the first
/// meeting, to which this rank comes when the kernels before, which read the rows, have ended.
template <int kRanks>
__global__ void __launch_bounds__(kMostReduceThreads)
    all_reduce_two_shot(const __grid_constant__ PeerReduce a) {
  float* values = shared_memory<float>();
  const uint32_t meeting = first_meeting(a.peers);
  if (!meet_peers(a.peers, meeting)) return;
  const int64_t end = first_row_of(a.num_rows, a.peers.rank + 1, kRanks);
  for (int64_t row = first_row_of(a.num_rows, a.peers.rank, kRanks) + blockIdx.x; row < end;
       row += gridDim.x) {
    add_row<kRanks>(a, row, values);
    if (a.weight != nullptr) {
      normalize_row(values, a.num_cols, a.weight, a.eps);
      store_row(values, row, a.num_cols, a.out);
    }
    __syncthreads();  // the row is whole, and `values` free
    push_row<kRanks>(a, row);
  }
  if (!meet_peers(a.peers, meeting + 1)) return;
  count_meetings(a.peers, meeting + 1);
  if (a.shares_residual) take_residual_rows<kRanks>(a);
  report_failure(a.peers);
}

/// Only a meeting: what every rank's stream wrote before it is seen by all after it.
template <typename Side = PeerSide>
__global__ void meeting_of_peers(const __grid_constant__ Side peers) {
  const uint32_t meeting = first_meeting(peers);
  if (!meet_peers(peers, meeting)) return;
  count_meetings(peers, meeting);
  report_failure(peers);
}

}  // namespace phalanx::kernels::cuda
