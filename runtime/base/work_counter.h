// Counts finished pieces of work, so that a watcher can tell a slow rank from a stuck one. Counted
// by kernels and transports, while they work; read by the job monitor.
#pragma once

#include <array>
#include <cstdint>

namespace phalanx {

/// One more in a thread's tally: a plain load and store, no bus lock. A tally has one writer; if
/// two share one, a count may be lost, and the next one shows.
inline void count_piece(uint64_t* tally) {
  __atomic_store_n(tally, __atomic_load_n(tally, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

/// A tally for each thread. Whoever counts promises a piece at least every few tenths of a second
/// of a processor's time, whatever the shapes. Any thread may read.
class WorkCounter {
 public:
  /// Of thread 0 (the executor), 1, ...; threads beyond kNumTallies share.
  uint64_t* tally(int thread_index) {
    return &tallies_[static_cast<size_t>(thread_index) % kNumTallies].count;
  }

  /// Changes when work is done; says nothing about how much.
  uint64_t total() const {
    uint64_t sum = 0;
    for (const Tally& tally : tallies_) sum += __atomic_load_n(&tally.count, __ATOMIC_RELAXED);
    return sum;
  }

 private:
  static constexpr size_t kNumTallies = 64;
  struct alignas(128) Tally {  // apart: each thread writes its own all the time
    uint64_t count = 0;
  };
  std::array<Tally, kNumTallies> tallies_{};
};

}  // namespace phalanx
