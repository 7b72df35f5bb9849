// How the blocks of several ranks' kernels wait for one another: flags in peer memory, a deadline,
// and the failure word that tells everybody who was missing. Included by the kernels of
// all_reduce_kernels.h; the host side reads failures through peer_group.h.
//
// Block b of a kernel meets the blocks b of the other ranks' same kernel, and no others. It counts
// its meetings in memory of its own, so that launches carry no number and a captured graph may be
// replayed: every rank makes the same launches with the same grid, so blocks b count alike. A flag
// holds the number of the meeting its rank has come to. Flags only grow, hence are never reset: who
// is one meeting ahead (nobody can be two: he waits for all) has also come to this one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/row_views.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// Blocks of a kernel that meets: at most this many, one a multiprocessor.
inline constexpr int kMostPeerBlocks = 128;

/// The start of every rank's region. Zero at first.
struct PeerControl {
  /// [block][rank]: the meeting that this rank's block has come to; stored by that rank. The flags
  /// that a block waits for are in one sector of 32 bytes.
  uint32_t flags[kMostPeerBlocks][kMostParts];
  uint32_t meetings[kMostPeerBlocks];  ///< that the region's own blocks have ended
  uint32_t failure;                    ///< a failure word, stored by any rank; 0: none
};

/// Words that a rank's host and its kernels share.
inline constexpr int kFailureWord = 0;  ///< stored by kernels: a failure word
inline constexpr int kAbortWord = 1;    ///< stored by the host: not 0 ends all waits
inline constexpr int kNumPeerHostWords = 2;

/// What every kernel of a group takes.
struct PeerSide {
  std::byte* regions[kMostParts];  ///< of all ranks, as mapped by this one
  int size;
  int rank;
  uint32_t* host_words;  ///< [kNumPeerHostWords]
  uint64_t deadline_ns;  ///< of one wait
};

/// A failure word: bit 31; bit 30: the host asked to end, else the deadline passed; then the rank
/// that gave up, the rank it waited for (from bit 16), the block (from bit 0).
__host__ __device__ constexpr uint32_t failure_word(bool aborted, int reporter, int missing,
                                                    int block) {
  return 0x80000000U | (aborted ? 0x40000000U : 0U) | static_cast<uint32_t>(reporter) << 20 |
         static_cast<uint32_t>(missing) << 16 | static_cast<uint32_t>(block);
}

__device__ __forceinline__ PeerControl* control_of(const PeerSide& peers, int rank) {
  return reinterpret_cast<PeerControl*>(peers.regions[rank]);
}

/// Looks at a flag before the clock and the host's word (which is across PCIe) are looked at.
inline constexpr uint32_t kLooksBetweenChecks = 64;

/// Waits until block blockIdx.x of rank `other` has come to `meeting`. False, and all ranks are
/// told by the failure word, when it has not within the deadline or the host aborts; false at the
/// first check when the word is set already, so that what follows in the stream ends soon.
__device__ inline bool wait_for_peer(const PeerSide& peers, int other, uint32_t meeting) {
  PeerControl* own = control_of(peers, peers.rank);
  uint64_t start = 0;
  for (uint32_t looks = 1;; ++looks) {
    const uint32_t flag = load_acquire_system(&own->flags[blockIdx.x][other]);
    if (static_cast<int32_t>(flag - meeting) >= 0) return true;
    if (looks % kLooksBetweenChecks != 0) continue;
    const uint64_t now = device_time_ns();
    if (start == 0) start = now;
    uint32_t failure = load_acquire_system(&own->failure);
    if (failure == 0) {
      const bool aborted = load_acquire_system(&peers.host_words[kAbortWord]) != 0;
      if (!aborted && now - start < peers.deadline_ns) continue;
      failure = failure_word(aborted, peers.rank, other, static_cast<int>(blockIdx.x));
      for (int rank = 0; rank < peers.size; ++rank)
        store_release_system(&control_of(peers, rank)->failure, failure);
    }
    store_release_system(&peers.host_words[kFailureWord], failure);
    return false;
  }
}

/// The meeting after those that this block has ended.
__device__ __forceinline__ uint32_t first_meeting(const PeerSide& peers) {
  return control_of(peers, peers.rank)->meetings[blockIdx.x] + 1;
}

/// Once a kernel's last meeting is over.
__device__ __forceinline__ void count_meetings(const PeerSide& peers, uint32_t last) {
  if (threadIdx.x == 0) control_of(peers, peers.rank)->meetings[blockIdx.x] = last;
}

/// All threads of the block, of which there are at least `size`. What they, and earlier kernels of
/// the stream, wrote to any region before is seen by the others' blocks after, and the other way
/// round. Returns to all threads whether everybody came; if not, the block touches no region more.
__device__ __forceinline__ bool meet_peers(const PeerSide& peers, uint32_t meeting) {
  __syncthreads();  // the stores below release what all of the block's threads wrote
  const auto other = static_cast<int>(threadIdx.x);
  bool came = true;
  if (other < peers.size) {
    store_release_system(&control_of(peers, other)->flags[blockIdx.x][peers.rank], meeting);
    came = wait_for_peer(peers, other, meeting);
  }
  return __syncthreads_and(came ? 1 : 0) != 0;
}

/// After all threads of a block have read what peers wrote. A rank that gave up goes through its
/// stream and may raise flags over rows that mean nothing, but not before it stored everybody's
/// failure word: who has read such rows finds the word here, and its host learns of it.
__device__ __forceinline__ void report_failure(const PeerSide& peers) {
  if (threadIdx.x + 1 != blockDim.x) return;
  const uint32_t failure = load_acquire_system(&control_of(peers, peers.rank)->failure);
  if (failure != 0) store_release_system(&peers.host_words[kFailureWord], failure);
}

}  // namespace phalanx::kernels::cuda
