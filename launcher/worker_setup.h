// Turns a configuration and the ranks at hand into what a job runs with: topology, threads, limits,
// KV blocks. Collective: every rank ends with the same answer or the same error.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "kernels/cpu_backend.h"
#include "kernels/cuda_backend.h"
#include "launcher/config.pb.h"
#include "launcher/worker_arguments.h"
#include "parallel/mpi_session.h"
#include "parallel/rank_topology.h"
#include "runtime/base/result.h"
#include "runtime/executor/graph_executor.h"
#include "runtime/model/engine_file.h"
#include "runtime/scheduler/scheduler.h"

namespace phalanx::launcher {

struct WorkerSetup {
  config::WorkerConfig config;
  std::string model_name;
  std::shared_ptr<const model::EngineFile> engine;
  parallel::RankTopology topology;
  ExecutorOptions executor;
  SchedulerConfig scheduler;
  kernels::CpuBackendOptions cpu;
  std::optional<kernels::CudaBackendOptions> cuda;  ///< what it computes on, if not the CPU
  int64_t device_bytes = 0;                         ///< of its GPU's memory, for this rank
  bool spin = true;   ///< threads of all ranks on this host do not outnumber its cores
  std::string cores;  ///< which processors the ranks of this host run on, for people
};

/// Reads the configuration on rank 0 and gives it to all. Errors as parse_worker_config.
Result<config::WorkerConfig> share_config(parallel::MpiSession& session,
                                          const WorkerArguments& arguments);

/// Everything but the MPI world: opens the engine, checks topology and limits.
/// With `world_size` != tp_size * pp_size: kInvalidArgument.
Result<WorkerSetup> make_setup(parallel::MpiSession& session, const config::WorkerConfig& config);

/// The ledger of every rank as text, for --plan; needs only this process.
Result<std::string> describe_plan(const config::WorkerConfig& config);

/// Ok when every rank passes ok; else, on every rank, the error of the lowest failing rank with its
/// number and host put before it. Collective.
Status agree(parallel::MpiSession& session, const Status& local);

}  // namespace phalanx::launcher
