// One rank of a running job: composes session, monitor, groups, executor and, on rank 0, the
// leader. Made by llm-worker's main and by the MPI tests.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "launcher/host_resources.h"
#include "launcher/worker_setup.h"
#include "parallel/job_monitor.h"
#include "parallel/mpi_session.h"
#include "parallel/step_channel.h"
#include "runtime/executor/rank_worker.h"
#include "runtime/server/leader.h"

namespace phalanx::launcher {

/// error.what(), or for want of memory or threads what takes less of them.
std::string explain(const std::exception& error);

/// Thread: the one that constructs it (it becomes the executor thread in run()).
class WorkerJob {
 public:
  /// Collective. Loads and allocates everything; returns when this rank could compute a step.
  /// A failure ends the job (JobMonitor::fail) and does not return. `trace`: where this rank
  /// records what it does, not owned; null: nowhere.
  WorkerJob(parallel::MpiSession& session, WorkerSetup setup, bool digest_logits,
            TraceRecorder* trace = nullptr);
  ~WorkerJob();
  WorkerJob(const WorkerJob&) = delete;
  WorkerJob& operator=(const WorkerJob&) = delete;

  /// On rank 0, else null.
  Leader* leader() { return leader_.get(); }
  const WorkerSetup& setup() const { return setup_; }
  /// How ranks talk and compute, for the banner: "shm, cpu avx512 x 1 threads".
  std::string describe() const;

  /// Collective, instead of run(): ends without having served.
  void abandon() { monitor_->finish(); }

  /// Collective. Executes steps until the leader stops the job. `on_ready` runs on rank 0 once
  /// every rank is ready and the leader takes requests. An exception of a step ends the job and
  /// does not return.
  void run(const std::function<void()>& on_ready);

 private:
  void build();
  void build_groups();
  void build_leader();
  void execute();

  parallel::MpiSession& session_;
  WorkerSetup setup_;
  bool digest_logits_;
  TraceRecorder* trace_;
  const cpu_set_t start_affinity_;  // before kernels bind this thread
  std::unique_ptr<parallel::JobMonitor> monitor_;
  std::unique_ptr<parallel::Communicator> tensor_group_;
  std::unique_ptr<parallel::Communicator> pipeline_group_;
  parallel::StepChannelEnds channel_;
  std::unique_ptr<kernels::Operators> operators_;
  std::unique_ptr<GraphExecutor> executor_;
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<Leader> leader_;
  std::thread leader_thread_;
};

}  // namespace phalanx::launcher
