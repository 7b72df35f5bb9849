// The composition root's core: who is made from what, in which order.
#include "launcher/worker_job.h"

#include <algorithm>
#include <exception>
#include <new>
#include <system_error>

#include "runtime/base/check.h"
#include "runtime/base/log.h"

namespace phalanx::launcher {
namespace {

using std::chrono::milliseconds;

parallel::JobMonitorOptions monitor_options(const config::Failure& failure) {
  parallel::JobMonitorOptions options;
  options.heartbeat = milliseconds(failure.heartbeat_ms());
  options.silence = milliseconds(failure.silence_ms());
  options.operation_deadline = milliseconds(failure.operation_deadline_ms());
  options.load_deadline = milliseconds(failure.load_deadline_ms());
  return options;
}

}  // namespace

std::string explain(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return "out of memory (the memory free now, or ulimit -v); fewer kv_cache.capacity_tokens, "
           "scheduling.max_step_tokens or cpu.num_threads take less";
  }
  const auto* system = dynamic_cast<const std::system_error*>(&error);
  if (system != nullptr && system->code() == std::errc::resource_unavailable_try_again) {
    return std::string("a thread could not be started: ") + system->what() +
           " (memory, ulimit -v or ulimit -u); fewer cpu.num_threads or server.num_threads need "
           "less";
  }
  return error.what();
}

WorkerJob::WorkerJob(parallel::MpiSession& session, WorkerSetup setup, bool digest_logits,
                     TraceRecorder* trace)
    : session_(session),
      setup_(std::move(setup)),
      digest_logits_(digest_logits),
      trace_(trace),
      start_affinity_(affinity()) {
  monitor_ =
      std::make_unique<parallel::JobMonitor>(session_, monitor_options(setup_.config.failure()));
  try {
    build();
  } catch (const std::exception& error) {
    monitor_->fail(explain(error));
  }
}

WorkerJob::~WorkerJob() {
  if (leader_thread_.joinable()) leader_thread_.join();
}

void WorkerJob::build() {
  monitor_->progress().set_operation("set up communication");
  build_groups();
  monitor_->progress().set_operation("start the kernels");
  kernels::CpuBackendOptions cpu = setup_.cpu;
  cpu.work = &monitor_->progress().work();
  cpu.trace = trace_;
  if (setup_.cuda) {
    kernels::CudaBackendOptions cuda = *setup_.cuda;
    cuda.work = cpu.work;
    operators_ = kernels::make_cuda_operators(cuda);
  } else {
    operators_ = kernels::make_cpu_operators(cpu);
  }
  if (digest_logits_) setup_.executor.draws_on_device = false;  // the host reads them
  executor_ =
      std::make_unique<GraphExecutor>(setup_.engine, setup_.topology, setup_.executor,
                                      ExecutorGroups{tensor_group_.get(), pipeline_group_.get()},
                                      *operators_, monitor_->progress());
  if (setup_.topology.is_sampler()) {
    sampler_ =
        std::make_unique<Sampler>(executor_->vocab_size(), setup_.executor.limits.max_sequences);
  }
  if (setup_.topology.is_leader()) build_leader();
}

void WorkerJob::build_groups() {
  const parallel::RankTopology& topology = setup_.topology;
  parallel::CommunicatorOptions options;
  options.spin = setup_.spin;
  options.work = &monitor_->progress().work();
  const auto hidden_size = static_cast<size_t>(setup_.engine->manifest().model().hidden_size());
  options.max_message_bytes =
      static_cast<size_t>(setup_.executor.limits.max_rows) * hidden_size * sizeof(float);
  if (topology.tp_size > 1) {
    std::vector<int> ranks;
    for (int tp = 0; tp < topology.tp_size; ++tp)
      ranks.push_back(topology.rank_of(topology.pp_rank(), tp));
    tensor_group_ = session_.make_communicator(ranks, options, monitor_->abort_flag());
  } else {
    tensor_group_ = parallel::make_single_communicator();
  }
  if (topology.pp_size > 1) {
    std::vector<int> ranks;
    for (int pp = 0; pp < topology.pp_size; ++pp)
      ranks.push_back(topology.rank_of(pp, topology.tp_rank()));
    pipeline_group_ = session_.make_communicator(ranks, options, monitor_->abort_flag());
  }
  parallel::StepChannelOptions channel_options;
  channel_options.capacity_bytes =
      std::max(channel_options.capacity_bytes, 2 * max_plan_bytes(setup_.scheduler));
  channel_options.spin = setup_.spin;
  channel_ = topology.world_size > 1
                 ? parallel::make_step_channel(session_, channel_options, monitor_->abort_flag())
                 : parallel::make_local_step_channel(channel_options, monitor_->abort_flag());
}

void WorkerJob::build_leader() {
  const engine::ModelConfig& model = setup_.engine->manifest().model();
  ServiceInfo info;
  info.model_name = setup_.model_name;
  info.vocab_size = model.vocab_size();
  info.max_context_tokens = setup_.scheduler.max_context_tokens;
  info.kv_capacity_tokens = setup_.executor.num_kv_blocks * kernels::kBlockTokens;
  info.eos_token_ids.assign(model.eos_token_ids().begin(), model.eos_token_ids().end());
  leader_ = std::make_unique<Leader>(setup_.scheduler, std::move(info), *channel_.publisher);
  leader_->set_trace(trace_);
  monitor_->set_on_failure([this](const std::string& reason) { leader_->fail(reason); });
}

std::string WorkerJob::describe() const {
  const parallel::Communicator* group =
      setup_.topology.tp_size > 1 ? tensor_group_.get() : pipeline_group_.get();
  return operators_->description() +
         (group != nullptr ? ", ranks talk by " + group->transport() : "");
}

void WorkerJob::run(const std::function<void()>& on_ready) {
  monitor_->progress().set_operation("wait for all ranks");
  monitor_->progress().set_state(parallel::Progress::State::kWaiting);
  try {
    session_.all_reduce_min(0);
  } catch (const std::exception& error) {
    monitor_->fail(explain(error));
  }
  // Nobody waits for another any more: rank 0 starts to serve, the others expect its first plan.
  monitor_->progress().set_operation("start serving");
  monitor_->progress().set_state(parallel::Progress::State::kIdle);
  monitor_->mark_ready();
  if (leader_) {
    // Threads of the leader and the server go where they like, not to the executor's core.
    const AffinityScope unpinned(start_affinity_);
    leader_thread_ = std::thread([this] {
      try {
        leader_->run();
      } catch (const std::exception& error) {
        monitor_->fail(std::string("the leader: ") + error.what());
      }
    });
    leader_->set_ready();
    on_ready();
  }
  execute();
  if (leader_thread_.joinable()) leader_thread_.join();
  monitor_->progress().set_operation("finish");
  monitor_->progress().set_state(parallel::Progress::State::kIdle);
  monitor_->finish();
}

void WorkerJob::execute() {
  RankWorkerParts parts;
  parts.topology = setup_.topology;
  parts.groups = {tensor_group_.get(), pipeline_group_.get()};
  parts.executor = executor_.get();
  parts.operators = operators_.get();
  parts.sampler = sampler_.get();
  parts.plans = channel_.subscriber.get();
  parts.progress = &monitor_->progress();
  parts.digest_logits = digest_logits_;
  monitor_->progress().set_trace(trace_);
  if (leader_) parts.deliver = [this](StepResult result) { leader_->deliver(std::move(result)); };
  try {
    RankWorker(parts, setup_.executor.limits, setup_.executor.num_kv_blocks).run();
  } catch (const std::exception& error) {
    monitor_->fail(explain(error));
  }
}

}  // namespace phalanx::launcher
