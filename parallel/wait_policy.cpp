// The error texts of waits that end badly. Called by the transports.
#include "parallel/wait_policy.h"

#include <cstdio>

#include "runtime/base/check.h"

namespace phalanx::parallel {

WaitPolicy make_wait_policy(std::chrono::nanoseconds deadline, bool spin, const AbortFlag* abort) {
  constexpr std::chrono::hours kNever{24 * 365};
  return {abort != nullptr ? kNever : deadline, spin, abort};
}

void SlowWait::throw_aborted(const std::string& what) const {
  throw DeviceError(what + ": given up, because the job is ending");
}

void SlowWait::throw_deadline(const std::string& what) const {
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%.1f",
                std::chrono::duration<double>(policy_.deadline).count());
  throw DeviceError(what + ": nothing came within the deadline of " + seconds + " s");
}

}  // namespace phalanx::parallel
