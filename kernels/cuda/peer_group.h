// All-reduces of one rank of a tensor-parallel group over peer memory, fused with residual
// addition, RMS norm and conversion. Called by the executor between the linears of a step; chosen
// against NCCL by bytes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/peer_meeting.h"
#include "kernels/cuda/peer_memory.h"
#include "kernels/operators.h"
#include "kernels/peer_reducer.h"

namespace phalanx::kernels::cuda {

struct PeerReduce;

/// Parts of up to so many bytes ([rows, hidden] f32) are added up by every rank (one-shot); of
/// larger ones each rank adds up its own rows and hands their conversions around (two-shot).
/// One-shot reads (n - 1) parts over the links, two-shot 2 (n - 1) / n of a part or less, but meets
/// twice. Defaults: 512, 128 and 32 tokens of hidden size 8192, where TensorRT-LLM's table for
/// sm_90 changes over; for another machine the tuner sets them. 0: always two-shot.
struct AllReduceThresholds {
  int64_t one_shot_bytes_of_2 = int64_t{512} * 8192 * 4;
  int64_t one_shot_bytes_of_4 = int64_t{128} * 8192 * 4;
  int64_t one_shot_bytes_of_8 = int64_t{32} * 8192 * 4;

  int64_t one_shot_bytes(int size) const {
    return size <= 2 ? one_shot_bytes_of_2 : size <= 4 ? one_shot_bytes_of_4 : one_shot_bytes_of_8;
  }
};

struct PeerGroupOptions {
  int64_t max_rows = 0;          ///< of one call
  int64_t num_cols = 0;          ///< K, the hidden size
  int64_t conversion_bytes = 0;  ///< activation_bytes of max_rows, in the largest form asked for
  AllReduceThresholds thresholds;
  int max_blocks = kMostPeerBlocks;  ///< of a kernel; also bounded by the multiprocessors
  /// How long one wait for a peer may last: a peer works on its step, no more. The job's monitor
  /// knows more and calls abort() when a rank has died.
  std::chrono::milliseconds deadline{20'000};
};

/// Why the group stopped.
struct PeerFailure {
  bool aborted = false;  ///< by the reporter's host; else its deadline passed
  int reporter = 0;      ///< the rank that gave up
  int missing = 0;       ///< the rank it waited for
  int block = 0;         ///< of the kernel
  std::string text(const PeerGroupOptions& options) const;
};

/// Every rank of the group makes the same calls in the same order, with the same shapes, each on
/// one stream of its own; kernels of that stream begin when those before have ended (no
/// programmatic dependent launch). Ranks that are threads of one process: not the default stream,
/// which would put one's kernel behind the other's that waits for it; and since the first launch of
/// a kernel may wait for kernels that run, all are loaded before (CUDA_MODULE_LOADING=EAGER).
///
/// A step: the linear writes part(num_rows), a call reduces it, and so on; then end_step(). All
/// calls of a step have the same num_rows. Steps may be captured in graphs and replayed in any
/// order: no argument varies, and a step ends with the part in turn that it began with.
///
/// One-shot calls write two parts by turns: a part is written again when a call lies between, which
/// shows that its readers are done (all_reduce_kernels.h). After an odd number of such calls the
/// next step would begin with the part that was read last: end_step() then makes one meeting more.
///
/// Failures: a wait that outlasts the deadline, or abort(), ends this call and all that follow
/// soon, on all ranks, with rows that mean nothing: the host asks failure() before it uses what a
/// step gave. Thread: the executor's; abort() and failure() any.
class PeerGroup {
 public:
  static constexpr int kMaxSize = kMostParts;

  /// Bytes of a region, for the memory ledger and for PeerMemory::create.
  static int64_t region_bytes(const PeerGroupOptions& options, int size);

  /// Collective. The options are the same on all ranks, or InternalError names the first that
  /// differs. memory: of region_bytes, of a power of two of ranks, 2 to kMaxSize.
  PeerGroup(std::unique_ptr<PeerMemory> memory, const PeerGroupOptions& options,
            const PeerExchange& exchange);

  int rank() const { return peers_.rank; }
  int size() const { return peers_.size; }

  /// Whether steps of so many rows are reduced by every rank. Else a rank owns rows [first, second)
  /// of own_rows(), and of the residual only those are right after a call that does not share it.
  bool is_one_shot(int64_t num_rows) const;
  std::pair<int64_t, int64_t> own_rows(int64_t num_rows) const;

  /// Where this rank's linear writes its rows for the next call; row-contiguous.
  Rows part(int64_t num_rows) const;

  /// Returns where the conversions of all rows lie when the kernel has ended, until the next call;
  /// without a weight nothing.
  ActivationView add_rms_norm(const PeerAddNorm& reduce, Stream stream);
  /// y = sum over the ranks of their parts: all rows, on every rank.
  void all_reduce(int64_t num_rows, Rows y, Stream stream);
  /// What every rank's stream wrote before is seen by the others' after.
  void meet(Stream stream);
  void end_step(Stream stream);

  /// Why the group stopped, of several reasons one, until reset().
  std::optional<PeerFailure> failure() const;
  /// Throws DeviceError with the failure's text when there is one.
  void require_no_failure() const;
  /// Ends the waits of this rank's kernels, now and later, and with them those of the others.
  void abort();
  /// Collective: as after construction. No kernel of the group runs.
  void reset(const PeerExchange& exchange);

 private:
  PeerReduce reduce_of(int64_t num_rows) const;
  void run(const PeerReduce& reduce, Stream stream);
  int64_t part_offset(int64_t num_rows) const;

  std::unique_ptr<PeerMemory> memory_;
  PeerGroupOptions options_;
  PeerSide peers_{};
  int num_blocks_ = 1;
  /// Which short part is next. It is read by nobody, and 0 between steps; after a two-shot call and
  /// a meeting both are read by nobody.
  int turn_ = 0;
};

}  // namespace phalanx::kernels::cuda
