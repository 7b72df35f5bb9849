// A place to sleep in shared memory until a condition holds: an event count over a futex. Used by
// the shared-memory rings and gates, between processes and between threads alike.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "parallel/wait_policy.h"

namespace phalanx::parallel {

/// Where this thread runs right now; a few nanoseconds.
int current_cpu();
inline constexpr int kUnknownCpu = -1;

/// Protocol: who makes a condition true stores it with seq_cst and then calls notify(); who waits
/// passes a ready() that reads it with seq_cst. Then no wake is lost: either the notifier sees the
/// sleeper's count, or the sleeper sees the condition. notify() without sleepers is one load.
/// All zero bytes are a valid event (fresh shared memory).
class SharedEvent {
 public:
  void notify() {
    if (sleepers_.load(std::memory_order_seq_cst) != 0) wake_all();
  }

  /// Returns when ready() is true. Throws DeviceError by the policy; what() names the wait.
  /// `peer_cpu` is the processor that the awaited one was last seen on, if known: on our own it
  /// cannot run while we spin, which else is for `spin_time`.
  template <typename Ready, typename What>
  void wait(const WaitPolicy& policy, const Ready& ready, const What& what,
            int peer_cpu = kUnknownCpu, std::chrono::nanoseconds spin_time = kSpinTime) {
    if (ready()) return;
    if (policy.spin && peer_cpu != current_cpu() && spin_until(ready, spin_time)) return;
    const SlowWait slow(policy);
    const Sleeper sleeper(*this);
    while (true) {
      const uint32_t epoch = epoch_.load(std::memory_order_seq_cst);
      if (ready()) return;
      slow.check(what);
      sleep(epoch, slow.slice());
    }
  }

  /// Like wait(), but gives up after `timeout` instead of the policy's deadline; returns ready().
  template <typename Ready, typename What>
  bool wait_for(const WaitPolicy& policy, std::chrono::nanoseconds timeout, const Ready& ready,
                const What& what) {
    if (ready() || (policy.spin && timeout > kSpinTime && spin_until(ready))) return true;
    WaitPolicy limited = policy;
    limited.deadline = timeout;
    const SlowWait slow(limited);
    const Sleeper sleeper(*this);
    while (true) {
      const uint32_t epoch = epoch_.load(std::memory_order_seq_cst);
      if (ready()) return true;
      slow.check_abort(what);
      if (slow.is_over()) return false;
      sleep(epoch, slow.slice());
    }
  }

 private:
  struct Sleeper {
    explicit Sleeper(SharedEvent& waited_for) : event(waited_for) { event.sleepers_.fetch_add(1); }
    ~Sleeper() { event.sleepers_.fetch_sub(1); }
    Sleeper(const Sleeper&) = delete;
    Sleeper& operator=(const Sleeper&) = delete;
    SharedEvent& event;
  };

  void wake_all();
  void sleep(uint32_t epoch, std::chrono::nanoseconds at_most);

  std::atomic<uint32_t> epoch_{0};
  std::atomic<uint32_t> sleepers_{0};
};

static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(SharedEvent) == 8);

/// Distance that keeps two processors' writes apart: a pair of cache lines, since the prefetcher
/// fetches lines in pairs.
inline constexpr size_t kLineBytes = 128;

}  // namespace phalanx::parallel
