// The futex system calls behind shared_event.h.
#include "parallel/shared_event.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace phalanx::parallel {

int current_cpu() { return sched_getcpu(); }

void SharedEvent::wake_all() {
  epoch_.fetch_add(1, std::memory_order_seq_cst);
  // Not FUTEX_PRIVATE: the sleepers are other processes.
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&epoch_), FUTEX_WAKE, INT_MAX, nullptr, nullptr,
          0);
}

void SharedEvent::sleep(uint32_t epoch, std::chrono::nanoseconds at_most) {
  timespec timeout{};
  timeout.tv_sec = static_cast<time_t>(at_most.count() / 1'000'000'000);
  timeout.tv_nsec = static_cast<long>(at_most.count() % 1'000'000'000);
  // Every return (woken, changed before, timed out, interrupted) means the same: look again.
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&epoch_), FUTEX_WAIT, epoch, &timeout, nullptr, 0);
}

}  // namespace phalanx::parallel
