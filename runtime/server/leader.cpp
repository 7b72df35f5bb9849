// The leader half of the two loops; the other is rank_worker::run.
#include "runtime/server/leader.h"

#include <utility>

#include "runtime/base/check.h"
#include "runtime/base/log.h"
#include "runtime/base/metrics.h"

namespace phalanx {
namespace {

Counter steps_total("phalanx_steps_total", "Step plans published.");
Counter rows_total("phalanx_step_rows_total", "Tokens computed, prefill and decode.");
Counter generated_total("phalanx_generated_tokens_total", "Tokens generated.");
Counter preemptions_total("phalanx_preemptions_total", "Requests preempted for want of KV blocks.");
Counter prompt_total("phalanx_prompt_tokens_total", "Prompt tokens of admitted requests.");
Counter cached_total("phalanx_cached_prompt_tokens_total",
                     "Prompt tokens that the prefix cache served.");
Gauge waiting_gauge("phalanx_requests_waiting", "Requests waiting for a slot or blocks.");
Gauge running_gauge("phalanx_requests_running", "Requests running.");
Gauge free_blocks_gauge("phalanx_kv_blocks_free", "KV blocks free or holding only cached content.");
Gauge total_blocks_gauge("phalanx_kv_blocks", "KV blocks in the pool.");

/// Steps published and not yet committed: one runs on each stage, one more is planned ahead.
int64_t max_steps_in_flight(int32_t pp_size) { return pp_size + 1; }

}  // namespace

Leader::Leader(const SchedulerConfig& config, ServiceInfo info, parallel::StepPublisher& publisher)
    : config_(config), info_(std::move(info)), publisher_(publisher), scheduler_(config) {
  total_blocks_gauge.set(static_cast<double>(config.num_blocks));
}

Leader::~Leader() = default;

Result<RequestId> Leader::submit(Request request, std::shared_ptr<UpdateSink> sink) {
  const std::lock_guard lock(mutex_);
  switch (state()) {
    case ServiceState::kLoading:
      return unavailable("the model is still being loaded");
    case ServiceState::kDraining:
      return unavailable("the server is shutting down");
    case ServiceState::kFailed:
      return unavailable("the job failed: " + failure_);
    case ServiceState::kReady:
      break;
  }
  PHALANX_RETURN_IF_ERROR(check_request(request, config_));
  if (num_queued_ + num_waiting_ >= config_.max_waiting) {
    return resource_exhausted("the queue is full: " + std::to_string(config_.max_waiting) +
                              " requests are waiting");
  }
  const RequestId id{next_id_++};
  request.id = id;
  sinks_[id] = std::move(sink);
  inbox_.requests.push_back(std::move(request));
  ++num_queued_;
  wake_.notify_one();
  return id;
}

void Leader::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  if (sinks_.erase(id) == 0) return;
  inbox_.cancels.push_back(id);
  wake_.notify_one();
}

void Leader::deliver(StepResult result) {
  const std::lock_guard lock(mutex_);
  inbox_.results.push_back(std::move(result));
  wake_.notify_one();
}

void Leader::set_ready() {
  const std::lock_guard lock(mutex_);
  if (state() == ServiceState::kLoading) state_ = ServiceState::kReady;
}

void Leader::drain(std::chrono::milliseconds deadline) {
  const std::lock_guard lock(mutex_);
  const auto until = std::chrono::steady_clock::now() + deadline;
  drain_deadline_ = draining_ ? std::min(drain_deadline_, until) : until;
  draining_ = true;
  if (state() != ServiceState::kFailed) state_ = ServiceState::kDraining;
  wake_.notify_one();
}

void Leader::fail(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    failure_ = reason;
    state_ = ServiceState::kFailed;
    wake_.notify_one();
  }
  end_all(reason);
}

void Leader::set_plan_observer(std::function<void(const StepPlan&)> observer) {
  plan_observer_ = std::move(observer);
}

void Leader::run() {
  while (true) {
    Inbox inbox = wait_for_input();
    const TraceScope turn(trace_, kLeaderTrack, "commit and plan");
    const auto num_admitted = static_cast<int64_t>(inbox.requests.size());
    for (const RequestId id : inbox.cancels) scheduler_.cancel(id);
    admit(std::move(inbox.requests));
    for (const StepResult& result : inbox.results) {
      for (const RequestUpdate& update : scheduler_.commit(result)) dispatch(update);
    }
    publish_ready_plans();
    update_stats(num_admitted);
    if (state() == ServiceState::kDraining && deadline_passed()) {
      end_all("the server is shutting down and the request did not finish in time");
      break;
    }
    if (is_drained()) break;
    if (state() == ServiceState::kFailed) return;
  }
  publish(scheduler_.make_stop_plan());
}

Leader::Inbox Leader::wait_for_input() {
  std::unique_lock lock(mutex_);
  const auto has_input = [this] {
    return !inbox_.requests.empty() || !inbox_.cancels.empty() || !inbox_.results.empty() ||
           state() == ServiceState::kFailed || (draining_ && !scheduler_.has_work());
  };
  if (draining_) {
    wake_.wait_until(lock, drain_deadline_, has_input);
  } else {
    wake_.wait(lock, [&] { return has_input() || draining_; });
  }
  return std::exchange(inbox_, {});
}

void Leader::admit(std::vector<Request> requests) {
  for (Request& request : requests) {
    const RequestId id = request.id;
    {
      const std::lock_guard lock(mutex_);
      if (!sinks_.contains(id)) continue;  // cancelled before it was seen
    }
    if (Status status = scheduler_.add(std::move(request)); !status.ok()) {
      end_with_error(id, status.error().message);
    }
  }
}

void Leader::publish_ready_plans() {
  while (scheduler_.num_in_flight() < max_steps_in_flight(config_.pp_size)) {
    const std::optional<StepPlan> plan = scheduler_.plan();
    for (const RequestUpdate& failure : scheduler_.take_failures()) dispatch(failure);
    if (!plan) break;
    publish(*plan);
  }
}

void Leader::publish(const StepPlan& plan) {
  if (plan_observer_) plan_observer_(plan);
  publisher_.publish(std::as_bytes(std::span(scheduler_.encoded_plan())));
}

void Leader::dispatch(const RequestUpdate& update) {
  const std::lock_guard in_order(dispatch_mutex_);
  std::shared_ptr<UpdateSink> sink;
  {
    const std::lock_guard lock(mutex_);
    const auto found = sinks_.find(update.id);
    if (found == sinks_.end()) return;
    sink = found->second;
    if (update.finished) sinks_.erase(found);
  }
  sink->on_update(update);
}

void Leader::end_with_error(RequestId id, const std::string& reason) {
  RequestUpdate update;
  update.id = id;
  update.finished = true;
  update.reason = FinishReason::kError;
  update.error = reason;
  dispatch(update);
}

void Leader::end_all(const std::string& reason) {
  std::vector<RequestId> open;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, sink] : sinks_) open.push_back(id);
  }
  for (const RequestId id : open) end_with_error(id, reason);
}

bool Leader::is_drained() {
  const std::lock_guard lock(mutex_);  // under it a request came in before the drain, or not at all
  return state() == ServiceState::kDraining && !scheduler_.has_work() && inbox_.requests.empty();
}

bool Leader::deadline_passed() {
  const std::lock_guard lock(mutex_);
  return std::chrono::steady_clock::now() >= drain_deadline_;
}

void Leader::update_stats(int64_t num_admitted) {
  const SchedulerStats stats = scheduler_.stats();
  {
    const std::lock_guard lock(mutex_);
    num_queued_ -= num_admitted;
    num_waiting_ = stats.num_waiting;
  }
  steps_total.add(stats.num_steps - steps_total.value());
  rows_total.add(stats.num_computed_tokens - rows_total.value());
  generated_total.add(stats.num_generated_tokens - generated_total.value());
  preemptions_total.add(stats.num_preemptions - preemptions_total.value());
  prompt_total.add(stats.num_prompt_tokens - prompt_total.value());
  cached_total.add(stats.num_cached_tokens - cached_total.value());
  waiting_gauge.set(static_cast<double>(stats.num_waiting));
  running_gauge.set(static_cast<double>(stats.num_running));
  free_blocks_gauge.set(static_cast<double>(stats.num_free_blocks));
}

}  // namespace phalanx
