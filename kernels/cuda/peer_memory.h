// Memory that every rank of a tensor-parallel group reads and writes: a region of each rank's
// device, mapped by all. Made while loading; owned by a PeerGroup.
//
// Two devices stand behind it, chosen by CMake: CUDA's (cudaMalloc and its IPC handles) and the
// emulated one (anonymous memory of the operating system). Ranks that are threads of one process
// use plain pointers on both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/operators.h"
#include "runtime/base/result.h"

namespace phalanx::kernels::cuda {

class PeerRegion;

class PeerMemory {
 public:
  /// Collective. Regions of `bytes` zeroed bytes (aligned to 256 at least), which nobody can have
  /// touched when this returns. Error kUnsupported, on all ranks alike and with the reason, when
  /// some rank cannot reach another's memory: on another host, in another container, or no peer
  /// access between the devices; the caller then uses NCCL. DeviceError, on all ranks, names the
  /// rank whose device failed.
  static Result<std::unique_ptr<PeerMemory>> create(int64_t bytes, int rank, int size,
                                                    const PeerExchange& exchange);

  /// Frees the mappings, then the region. Not collective: a CUDA rank ends its region only when the
  /// others no longer use it, so ranks let go after a last exchange, or with the process.
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(regions_.size()); }
  int64_t bytes() const { return bytes_; }

  /// The region of a rank, at this rank's address.
  std::byte* region(int rank) const;

  /// Multiprocessors that each rank may keep busy at the same time: of the smallest device, shared
  /// by the ranks that are on it. The same on all ranks.
  int multiprocessors() const { return multiprocessors_; }

  /// Words of this rank, zero at first, which both its host and its kernels read and write, also
  /// while a kernel runs.
  uint32_t* host_words() const;
  static constexpr int kNumHostWords = 16;

  /// Zeroes [0, bytes) of this rank's region; no kernel runs that uses it.
  void clear(int64_t bytes);

 private:
  PeerMemory() = default;

  int rank_ = 0;
  int64_t bytes_ = 0;
  int multiprocessors_ = 1;
  std::vector<std::shared_ptr<PeerRegion>> regions_;  ///< by rank
};

}  // namespace phalanx::kernels::cuda
