// How long and in what manner a rank waits for another. Used by every transport of this folder.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "runtime/base/work_counter.h"

namespace phalanx::parallel {

/// Longest uninterrupted sleep: how late a sleeping rank may notice the abort flag.
inline constexpr std::chrono::milliseconds kSleepSlice{100};

/// How long a rank spins before it sleeps: a few times what a futex wake costs, so that a peer who
/// is only a little behind never has to make that system call.
inline constexpr std::chrono::microseconds kSpinTime{40};

/// The same in a meeting: its ranks compute the same step, so that the others come soon, and one
/// that has to be woken makes all of them wait.
inline constexpr std::chrono::microseconds kMeetingSpinTime{500};

struct WaitPolicy {
  std::chrono::nanoseconds deadline{std::chrono::seconds(60)};
  bool spin = true;
  const AbortFlag* abort = nullptr;  ///< may be null
};

/// With an abort flag a JobMonitor decides how long is too long, and the deadline is never.
WaitPolicy make_wait_policy(std::chrono::nanoseconds deadline, bool spin, const AbortFlag* abort);

/// What the transports of one group share: how to wait, and the words for the error. `operation` is
/// the verb in progress, set by the group before it waits; peers[i] is "rank 3 on node2" for
/// member i.
struct WaitContext {
  WaitPolicy policy;
  const char* operation = "start";
  std::vector<std::string> peers;
  uint64_t* tally = nullptr;  ///< of a WorkCounter, or null

  /// Something has come or gone: a message too long for its network's speed is no hang.
  void count_moved() const {
    if (tally != nullptr) count_piece(tally);
  }
};

/// One wait that has outlasted spinning.
class SlowWait {
 public:
  using Clock = std::chrono::steady_clock;
  explicit SlowWait(const WaitPolicy& policy)
      : policy_(policy), start_(Clock::now()), end_(start_ + policy.deadline) {}

  /// Throws DeviceError when the job aborts or the deadline has passed. `what` is only called then:
  /// it says the operation and whom it waits for.
  template <typename What>
  void check(const What& what) const {
    check_abort(what);
    if (is_over()) throw_deadline(what());
  }

  /// The same for waits that may end without an event.
  template <typename What>
  void check_abort(const What& what) const {
    if (policy_.abort != nullptr && policy_.abort->load(std::memory_order_relaxed))
      throw_aborted(what());
  }

  bool is_over() const { return Clock::now() >= end_; }

  /// How long to sleep before the next check.
  std::chrono::nanoseconds slice() const {
    const std::chrono::nanoseconds left = end_ - Clock::now();
    return std::clamp<std::chrono::nanoseconds>(left, std::chrono::nanoseconds(1), kSleepSlice);
  }

 private:
  [[noreturn]] void throw_aborted(const std::string& what) const;
  [[noreturn]] void throw_deadline(const std::string& what) const;

  const WaitPolicy& policy_;
  Clock::time_point start_;
  Clock::time_point end_;
};

/// Tells the processor that this is a spin loop.
inline void relax_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins up to `limit` for ready(); returns whether it came true.
template <typename Ready>
bool spin_until(const Ready& ready, std::chrono::nanoseconds limit = kSpinTime) {
  const auto end = SlowWait::Clock::now() + limit;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      relax_cpu();
    }
  } while (SlowWait::Clock::now() < end);
  return false;
}

}  // namespace phalanx::parallel
