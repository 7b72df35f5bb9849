// Decides which tokens of which requests the next step computes, and in which KV blocks: the one
// decider (law 3). A pure state machine: no clock, no threads, no I/O. Called by the leader and by
// the simulator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/scheduler/request.h"
#include "runtime/scheduler/step_plan.h"

namespace phalanx {

enum class SchedulingPolicy : uint8_t {
  kMaxUtilization,     ///< admit while blocks are free; preempt by recompute when they run out
  kGuaranteedNoEvict,  ///< admit only what surely fits to its end
};

struct SchedulerConfig {
  int64_t num_blocks = 0;  ///< the global pool; block ids are [0, num_blocks)
  int64_t block_tokens = 32;
  int64_t max_step_tokens = 2048;     ///< token budget of a step
  int64_t max_chunk_tokens = 512;     ///< cap of a step's prefill chunks while decodes run
  int64_t max_sequences = 256;        ///< slots: sequences running at once (over all micro-batches)
  int64_t max_waiting = 1024;         ///< queue length; add() beyond it is kResourceExhausted
  int64_t max_context_tokens = 2048;  ///< prompt + output of one request
  int64_t vocab_size = 0;
  int32_t pp_size = 1;  ///< micro-batches; each running sequence lives in one of them
  bool prefix_cache = true;
  SchedulingPolicy policy = SchedulingPolicy::kMaxUtilization;
  int64_t ageing_steps = 256;  ///< a waiting request gains one priority level per this many steps
  /// Token and block ids that the starts of one plan may carry (block tables, histories for
  /// penalties); one start has as many as it needs. Bounds the messages to the ranks.
  int64_t max_start_ids = int64_t{1} << 18;
};

/// No plan of a scheduler with this configuration is longer in its wire form.
size_t max_plan_bytes(const SchedulerConfig& config);

struct SchedulerStats {
  int64_t num_waiting = 0;
  int64_t num_running = 0;
  int64_t num_free_blocks = 0;    ///< never used or cached and unreferenced
  int64_t num_cached_blocks = 0;  ///< of those, holding reusable content
  uint64_t num_steps = 0;
  uint64_t num_preemptions = 0;
  uint64_t num_finished = 0;
  uint64_t num_prompt_tokens = 0;     ///< of admitted requests
  uint64_t num_cached_tokens = 0;     ///< of those, served by the prefix cache
  uint64_t num_computed_tokens = 0;   ///< rows planned
  uint64_t num_generated_tokens = 0;  ///< tokens committed
};

/// What Scheduler::add checks about the request itself (not the queue), so that a front end can
/// refuse at once. Errors: kInvalidArgument as there. Any thread.
Status check_request(const Request& request, const SchedulerConfig& config);

/// One thread (the leader's).
class Scheduler {
 public:
  /// Errors: InternalError when a config value is senseless (the launcher checks user input first).
  explicit Scheduler(const SchedulerConfig& config);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Queues a request. Errors: kInvalidArgument for an empty prompt, a token outside the
  /// vocabulary, max_tokens < 1, prompt longer than the context or than the whole pool;
  /// kResourceExhausted when the queue is full. max_tokens is cut to what the context leaves.
  Status add(Request request);

  /// Forgets a request, waiting or running; its blocks are free before the next plan. Unknown ids
  /// (already finished) are ignored. No update is returned for it.
  void cancel(RequestId id);

  /// The next step's plan, or nullopt when nothing can be computed before a commit or an add: no
  /// work, or all of it waits for steps in flight. Plans are numbered and chained by hash. Steps
  /// may be planned ahead of their predecessors' commits: a decode's input is then "sampled last
  /// step". With pp_size > 1 step n serves micro-batch n % pp_size; when that micro-batch has no
  /// work but another has, an empty plan keeps the rotation.
  std::optional<StepPlan> plan();

  /// Wire form of the latest plan, as it was hashed, so that the leader need not encode it again.
  /// Valid until the next plan() or make_stop_plan().
  const std::string& encoded_plan() const;

  /// Results of planned steps, in order. Returns tokens and ends, in the step's order. Tokens of
  /// requests that were cancelled, finished or preempted past that point are dropped (a preempted
  /// request keeps every token it was given).
  std::vector<RequestUpdate> commit(const StepResult& result);

  /// Requests that failed outside a commit (the head request can never fit): drained by the leader
  /// after each plan().
  std::vector<RequestUpdate> take_failures();

  /// Steps planned and not yet committed.
  int64_t num_in_flight() const;
  bool has_work() const;  ///< any request waiting, running or in flight
  SchedulerStats stats() const;

  /// The stop plan (numbered and chained like any other). No plan after it.
  StepPlan make_stop_plan();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace phalanx
