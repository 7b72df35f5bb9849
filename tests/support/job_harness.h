// Runs a whole job (leader, scheduler, workers, real communicators) inside a test, and records
// every token with a digest of its logits, so that two runs can be compared bit by bit.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu_backend.h"
#include "parallel/mpi_session.h"
#include "runtime/model/engine_file.h"
#include "runtime/scheduler/scheduler.h"

namespace phalanx::testing {

struct JobShape {
  int tp_size = 1;
  int pp_size = 1;
  kernels::KvFormat kv_format = kernels::KvFormat::kF32;
  kernels::IsaTier isa_tier = kernels::best_isa_tier();
  int num_threads = 1;
  bool spin = false;  ///< waiting threads spin: for benchmarks
  bool digest_logits = true;
  int64_t num_blocks = 256;
  int64_t max_step_tokens = 512;
  int64_t max_chunk_tokens = 512;
  int64_t max_sequences = 32;
  int64_t max_context_tokens = 512;
  bool prefix_cache = true;
  size_t max_message_bytes = 1U << 20;      ///< of the groups
  bool force_mpi = false;                   ///< in the groups, even within a host
  std::optional<int64_t> unshared_bytes{};  ///< of ExecutorOptions
  std::vector<int64_t> recorded_sizes{};    ///< of ExecutorOptions
  /// What each rank computes with; default: the CPU, as told above.
  std::function<std::unique_ptr<kernels::Operators>()> make_operators{};
};

/// A request and when it is submitted: after `after_tokens` tokens were handed back to all requests
/// together (0: at once).
struct TimedRequest {
  Request request;
  int64_t after_tokens = 0;
};

struct TracedToken {
  int32_t token_id = 0;
  float logprob = 0.0F;
  uint64_t logits_digest = 0;
  bool operator==(const TracedToken&) const = default;
};

struct RequestTrace {
  std::vector<TracedToken> tokens;
  FinishReason reason = FinishReason::kError;
  std::string error;
  int64_t num_cached_tokens = 0;
};

struct JobTrace {
  std::vector<RequestTrace> requests;       ///< in the order of the workload; rank 0 only
  std::vector<int64_t> sequences_per_step;  ///< of the published plans; rank 0 only
  SchedulerStats stats;                     ///< at the end; rank 0 only
};

/// Collective over `session` (tp_size * pp_size ranks), or within this process when `session` is
/// null and both sizes are 1. Every rank passes the same arguments; rank 0 gets the trace.
JobTrace run_job(parallel::MpiSession* session,
                 const std::shared_ptr<const model::EngineFile>& engine, const JobShape& shape,
                 const std::vector<TimedRequest>& workload);

}  // namespace phalanx::testing
