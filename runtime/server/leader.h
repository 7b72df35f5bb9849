// The leader: takes requests from any thread, drives the scheduler, publishes step plans, commits
// results and hands tokens back. Lives in rank 0's process; made by the launcher.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "parallel/step_channel.h"
#include "runtime/base/trace_recorder.h"
#include "runtime/scheduler/scheduler.h"
#include "runtime/server/generation_service.h"

namespace phalanx {

/// Threads: run() has a thread of its own; everything else may be called from any.
class Leader : public GenerationService {
 public:
  /// `publisher` outlives the leader.
  Leader(const SchedulerConfig& config, ServiceInfo info, parallel::StepPublisher& publisher);
  ~Leader() override;

  Result<RequestId> submit(Request request, std::shared_ptr<UpdateSink> sink) override;
  void cancel(RequestId id) override;
  ServiceState state() const override { return state_.load(std::memory_order_acquire); }
  const ServiceInfo& info() const override { return info_; }

  /// The executor's result of a step, in order.
  void deliver(StepResult result);

  /// kLoading to kReady: from now on requests are taken.
  void set_ready();

  /// No new requests; run() publishes the stop plan and returns when the running ones are done, or
  /// when `deadline` has passed (then they end with kError). Calling again shortens the deadline.
  void drain(std::chrono::milliseconds deadline);

  /// The job is failing: every open request ends with kError and `reason`; submit() answers
  /// kUnavailable. Does not wait for run().
  void fail(const std::string& reason);

  /// The loop. Returns after the stop plan was published. Throws what publishing throws.
  void run();

  /// The scheduler's numbers; only when run() has returned.
  SchedulerStats stats() const { return scheduler_.stats(); }

  /// Turns of the loop are recorded there. Before run().
  void set_trace(TraceRecorder* trace) { trace_ = trace; }

  /// Called on the leader's thread with every plan, before it is published (the step log).
  void set_plan_observer(std::function<void(const StepPlan&)> observer);

 private:
  struct Inbox {
    std::vector<Request> requests;
    std::vector<RequestId> cancels;
    std::vector<StepResult> results;
  };

  Inbox wait_for_input();
  void admit(std::vector<Request> requests);
  void dispatch(const RequestUpdate& update);
  void end_with_error(RequestId id, const std::string& reason);
  void end_all(const std::string& reason);
  void publish(const StepPlan& plan);
  void publish_ready_plans();
  void update_stats(int64_t num_admitted);
  bool is_drained();
  bool deadline_passed();

  const SchedulerConfig config_;
  const ServiceInfo info_;
  parallel::StepPublisher& publisher_;
  Scheduler scheduler_;
  std::function<void(const StepPlan&)> plan_observer_;
  TraceRecorder* trace_ = nullptr;

  std::atomic<ServiceState> state_{ServiceState::kLoading};
  std::mutex dispatch_mutex_;  // one update at a time; taken before mutex_
  std::mutex mutex_;           // guards what follows
  std::condition_variable wake_;
  Inbox inbox_;
  uint64_t next_id_ = 1;
  int64_t num_queued_ = 0;   ///< submitted and not yet seen by the scheduler
  int64_t num_waiting_ = 0;  ///< the scheduler's queue, as of its last step
  bool draining_ = false;
  std::chrono::steady_clock::time_point drain_deadline_;
  std::string failure_;
  std::unordered_map<RequestId, std::shared_ptr<UpdateSink>> sinks_;
};

}  // namespace phalanx
