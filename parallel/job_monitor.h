// Notices a rank that died, hung or threw, and ends the job with its name. Open MPI notices too
// little (a stopped rank never), so this runs its own heartbeats over its own TCP sockets.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "runtime/base/trace_recorder.h"
#include "runtime/base/work_counter.h"

namespace phalanx::parallel {

class MpiSession;

/// What a rank is doing, for heartbeats and for the message when it fails. Written by the executor
/// (relaxed stores, a few nanoseconds), read by the monitor thread.
class Progress {
 public:
  /// phase/operation: string literals or other storage that outlives the job.
  void set_operation(const char* operation, int64_t layer = -1) {
    operation_.store(operation, std::memory_order_relaxed);
    layer_.store(layer, std::memory_order_relaxed);
    count_.fetch_add(1, std::memory_order_relaxed);
    if (trace_ != nullptr) trace_->turn_to(kExecutorTrack, operation, layer);
  }
  /// From now on operations are also recorded there. Before the executor starts.
  void set_trace(TraceRecorder* trace) { trace_ = trace; }
  /// Where kernels and transports count the pieces of an operation, so that a long one is seen to
  /// move. Handed to them when they are made; they do not outlive the monitor.
  WorkCounter& work() { return work_; }
  void set_step(int64_t step) { step_.store(step, std::memory_order_relaxed); }
  /// Idle ranks wait for a plan and owe no progress; waiting ranks wait for a peer and are not the
  /// culprit of a hang.
  enum class State : uint8_t { kIdle, kBusy, kWaiting };
  void set_state(State state) { state_.store(state, std::memory_order_relaxed); }

  const char* operation() const { return operation_.load(std::memory_order_relaxed); }
  int64_t layer() const { return layer_.load(std::memory_order_relaxed); }
  int64_t step() const { return step_.load(std::memory_order_relaxed); }
  State state() const { return state_.load(std::memory_order_relaxed); }
  /// Changes with every operation and every piece of one.
  uint64_t count() const { return count_.load(std::memory_order_relaxed) + work_.total(); }

 private:
  std::atomic<const char*> operation_{"start"};
  std::atomic<int64_t> layer_{-1};
  std::atomic<int64_t> step_{-1};
  std::atomic<State> state_{State::kBusy};
  std::atomic<uint64_t> count_{0};
  WorkCounter work_;
  TraceRecorder* trace_ = nullptr;  // not owned
};

struct JobMonitorOptions {
  std::chrono::milliseconds heartbeat{250};
  std::chrono::milliseconds silence{3'000};  ///< no heartbeat for this long: the rank is lost
  /// A busy rank without progress for this long hangs. With what mpirun takes to end (up to a
  /// second and a half) the job is gone within five seconds; operations that may take longer than
  /// this count pieces (Progress::work).
  std::chrono::milliseconds operation_deadline{3'200};
  std::chrono::milliseconds load_deadline{300'000};  ///< the same before mark_ready()
};

/// One per rank, from just after MpiSession, which it watches too, until the job ends; owns one
/// thread. The leader's
/// listens and watches every rank; the others' connect and watch the leader. On a failure: the
/// failing (or lost) rank, its host, step and operation are printed once on stderr by the leader
/// (by each worker when the leader itself is lost), `on_failure` runs on the monitor thread (the
/// leader uses it to fail open requests), `abort_flag()` becomes true, and after `grace` the
/// process leaves with a non-zero status by _exit, so that nobody survives or spins.
class JobMonitor {
 public:
  /// Collective over the world. Errors: DeviceError when sockets cannot be made.
  JobMonitor(MpiSession& session, const JobMonitorOptions& options);
  ~JobMonitor();
  JobMonitor(const JobMonitor&) = delete;
  JobMonitor& operator=(const JobMonitor&) = delete;

  Progress& progress();
  const AbortFlag* abort_flag() const;

  /// Called by the monitor thread once, before the job ends. Set before mark_ready().
  void set_on_failure(std::function<void(const std::string& reason)> on_failure);

  /// From now on the shorter operation deadline counts.
  void mark_ready();

  /// This rank failed (an exception reached rank_worker::run): tells the leader and ends the job.
  /// Does not return.
  [[noreturn]] void fail(const std::string& reason);

  /// Collective, at an orderly end: from here on closing sockets is not a failure.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace phalanx::parallel
