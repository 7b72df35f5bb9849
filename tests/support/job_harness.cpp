// The composition of launcher/worker_job without configuration, monitor or HTTP.
#include "tests/support/job_harness.h"

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>

#include "parallel/step_channel.h"
#include "runtime/base/check.h"
#include "runtime/executor/rank_worker.h"
#include "runtime/server/leader.h"

namespace phalanx::testing {
namespace {

/// Counts what comes back over all requests; wakes the submitting thread when it has what it waits
/// for.
struct Arrivals {
  std::mutex mutex;
  std::condition_variable changed;
  int64_t num_tokens = 0;
  int64_t num_open = 0;
  int64_t awaited_tokens = 0;

  bool due() const { return num_tokens >= awaited_tokens || num_open == 0; }
};

class TraceSink : public UpdateSink {
 public:
  TraceSink(RequestTrace& trace, Arrivals& arrivals) : trace_(trace), arrivals_(arrivals) {}

  void on_update(const RequestUpdate& update) override {
    const std::lock_guard lock(arrivals_.mutex);
    if (update.has_token) {
      trace_.tokens.push_back(
          {update.token.token_id, update.token.logprob, update.token.logits_digest});
      if (trace_.tokens.size() == 1) trace_.num_cached_tokens = update.num_cached_tokens;
      ++arrivals_.num_tokens;
    }
    if (update.finished) {
      trace_.reason = update.reason;
      trace_.error = update.error;
      --arrivals_.num_open;
    }
    if (arrivals_.due()) arrivals_.changed.notify_all();
  }

 private:
  RequestTrace& trace_;
  Arrivals& arrivals_;
};

void submit_all(Leader& leader, const std::vector<TimedRequest>& workload, JobTrace& trace) {
  Arrivals arrivals;
  trace.requests.resize(workload.size());
  for (size_t i = 0; i < workload.size(); ++i) {
    {
      std::unique_lock lock(arrivals.mutex);
      arrivals.awaited_tokens = workload[i].after_tokens;
      arrivals.changed.wait(lock, [&] { return arrivals.due(); });
      ++arrivals.num_open;
    }
    const auto id = leader.submit(workload[i].request,
                                  std::make_shared<TraceSink>(trace.requests[i], arrivals));
    if (id.ok()) continue;
    const std::lock_guard lock(arrivals.mutex);
    trace.requests[i].error = id.error().message;
    --arrivals.num_open;
  }
  std::unique_lock lock(arrivals.mutex);
  arrivals.awaited_tokens = std::numeric_limits<int64_t>::max();
  arrivals.changed.wait(lock, [&] { return arrivals.due(); });
}

SchedulerConfig scheduler_config(const model::EngineFile& engine, const JobShape& shape) {
  SchedulerConfig config;
  config.num_blocks = shape.num_blocks;
  config.block_tokens = kernels::kBlockTokens;
  config.max_step_tokens = shape.max_step_tokens;
  config.max_chunk_tokens = shape.max_chunk_tokens;
  config.max_sequences = shape.max_sequences;
  config.max_context_tokens = shape.max_context_tokens;
  config.vocab_size = engine.manifest().model().vocab_size();
  config.pp_size = shape.pp_size;
  config.prefix_cache = shape.prefix_cache;
  return config;
}

std::unique_ptr<parallel::Communicator> make_group(parallel::MpiSession* session,
                                                   const std::vector<int>& ranks,
                                                   const JobShape& shape) {
  if (ranks.size() == 1) return parallel::make_single_communicator();
  parallel::CommunicatorOptions options;
  options.spin = false;
  options.max_message_bytes = shape.max_message_bytes;
  options.force_mpi = shape.force_mpi;
  return session->make_communicator(ranks, options, nullptr);
}

}  // namespace

JobTrace run_job(parallel::MpiSession* session,
                 const std::shared_ptr<const model::EngineFile>& engine, const JobShape& shape,
                 const std::vector<TimedRequest>& workload) {
  const int world_size = session != nullptr ? session->world_size() : 1;
  const int rank = session != nullptr ? session->rank() : 0;
  const auto made = parallel::make_rank_topology(world_size, rank, shape.tp_size, shape.pp_size);
  PHALANX_CHECK(made.ok(), made.ok() ? "" : made.error().message);
  const parallel::RankTopology topology = *made;

  std::vector<int> tensor_ranks;
  for (int tp = 0; tp < topology.tp_size; ++tp) {
    tensor_ranks.push_back(topology.rank_of(topology.pp_rank(), tp));
  }
  std::vector<int> pipeline_ranks;
  for (int pp = 0; pp < topology.pp_size; ++pp) {
    pipeline_ranks.push_back(topology.rank_of(pp, topology.tp_rank()));
  }
  const auto tensor_group = make_group(session, tensor_ranks, shape);
  const auto pipeline_group = make_group(session, pipeline_ranks, shape);
  parallel::StepChannelOptions channel_options;
  channel_options.spin = shape.spin;
  const auto channel = world_size > 1
                           ? parallel::make_step_channel(*session, channel_options, nullptr)
                           : parallel::make_local_step_channel(channel_options, nullptr);

  kernels::CpuBackendOptions cpu;
  cpu.num_threads = shape.num_threads;
  cpu.isa_tier = shape.isa_tier;
  cpu.spin = shape.spin;
  const auto operators =
      shape.make_operators ? shape.make_operators() : kernels::make_cpu_operators(cpu);
  ExecutorOptions options;
  options.limits = {shape.max_step_tokens, shape.max_sequences, shape.max_context_tokens};
  options.kv_format = shape.kv_format;
  options.num_kv_blocks = shape.num_blocks;
  options.unshared_bytes = shape.unshared_bytes;
  options.recorded_sizes = shape.recorded_sizes;
  options.draws_on_device = !shape.digest_logits;
  parallel::Progress progress;
  GraphExecutor executor(engine, topology, options, {tensor_group.get(), pipeline_group.get()},
                         *operators, progress);
  std::unique_ptr<Sampler> sampler;
  if (topology.is_sampler()) {
    sampler = std::make_unique<Sampler>(executor.vocab_size(), shape.max_sequences);
  }

  RankWorkerParts parts;
  parts.topology = topology;
  parts.groups = {tensor_group.get(), pipeline_group.get()};
  parts.executor = &executor;
  parts.operators = operators.get();
  parts.sampler = sampler.get();
  parts.plans = channel.subscriber.get();
  parts.progress = &progress;
  parts.digest_logits = shape.digest_logits;

  JobTrace trace;
  std::unique_ptr<Leader> leader;
  std::thread leader_thread;
  std::thread client_thread;
  if (topology.is_leader()) {
    leader = std::make_unique<Leader>(scheduler_config(*engine, shape), ServiceInfo{},
                                      *channel.publisher);
    leader->set_plan_observer([&trace](const StepPlan& plan) {
      trace.sequences_per_step.push_back(static_cast<int64_t>(plan.sequences.size()));
    });
    parts.deliver = [&leader](StepResult result) { leader->deliver(std::move(result)); };
    leader->set_ready();
    leader_thread = std::thread([&leader] { leader->run(); });
    client_thread = std::thread([&] {
      submit_all(*leader, workload, trace);
      leader->drain(std::chrono::seconds(60));
    });
  }
  try {
    RankWorker(parts, options.limits, shape.num_blocks).run();
  } catch (const std::exception& error) {  // the other ranks wait for this one: end them all
    std::fprintf(stderr, "rank %d, step %lld, %s: %s\n", rank,
                 static_cast<long long>(progress.step()), progress.operation(), error.what());
    std::abort();
  }
  if (client_thread.joinable()) client_thread.join();
  if (leader_thread.joinable()) leader_thread.join();
  if (leader) trace.stats = leader->stats();
  return trace;
}

}  // namespace phalanx::testing
