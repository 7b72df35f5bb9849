// The loop every rank runs: take a plan, check it, compute it, sample, hand the result on.
// Started by the launcher on the rank's executor thread, which also catches what a step throws.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "parallel/job_monitor.h"
#include "parallel/rank_topology.h"
#include "parallel/step_channel.h"
#include "runtime/executor/batch_inputs.h"
#include "runtime/executor/graph_executor.h"
#include "runtime/executor/sampler.h"
#include "runtime/scheduler/request.h"

namespace phalanx {

/// What a rank works with; everything outlives the worker.
struct RankWorkerParts {
  parallel::RankTopology topology;
  ExecutorGroups groups;
  GraphExecutor* executor = nullptr;
  kernels::Operators* operators = nullptr;
  Sampler* sampler = nullptr;  ///< on the sampler rank
  parallel::StepSubscriber* plans = nullptr;
  parallel::Progress* progress = nullptr;
  bool digest_logits = false;  ///< fill SampledToken::logits_digest, to compare runs bit by bit
  /// On the leader's rank: takes each step's result, in order. Called on the executor thread.
  std::function<void(StepResult)> deliver;
};

/// Executor thread only.
///
/// Sampled tokens travel: sampler rank -> rank 0 (same process when pp_size is 1, else a message
/// through the pipeline group), which delivers them to the leader and, before a later step needs
/// them as input, broadcasts them to the first stage's tensor group.
class RankWorker {
 public:
  RankWorker(const RankWorkerParts& parts, const StepLimits& limits, int64_t num_kv_blocks);

  /// Returns after the stop plan. Throws what a step throws: the caller ends the job with it.
  void run();

 private:
  void announce_wait();
  void execute(const StepPlan& plan);
  void start_on_device(const StepPlan& plan);
  void finish_on_device();
  void feed_back_tokens();
  StepResult sample(uint64_t step, kernels::Rows logits);
  SampledToken sample_row(const SamplingRow& row, std::span<float> logits) const;
  void hand_on(StepResult result);
  void receive_result();
  void accept(StepResult result);
  bool awaits_results() const { return !awaited_steps_.empty(); }

  RankWorkerParts parts_;
  BatchInputs inputs_;
  uint64_t next_step_ = 0;
  uint64_t previous_hash_ = 0;
  std::deque<uint64_t> awaited_steps_;  ///< rank 0 with pp_size > 1: sampled there, not yet here
  int64_t newest_received_step_ = -1;
  bool has_unsent_ = false;  ///< sampler rank with pp_size > 1: posted results that have not gone
  std::vector<int32_t> fed_back_;
  kernels::TokenSampler* token_sampler_ = nullptr;  // the executor's: the device draws; or null
  /// Where the device draws: steps whose tokens have not been taken, oldest first. One runs while
  /// the next is enqueued, so that the device is never without work.
  struct StartedStep {
    uint64_t step = 0;
    std::vector<SamplingRow> sampling;
  };
  std::deque<StartedStep> started_;
};

}  // namespace phalanx
