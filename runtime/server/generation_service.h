// What the HTTP side asks of the leader: take requests, hand back tokens. Implemented by the
// leader; faked in HTTP tests.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/scheduler/request.h"

namespace phalanx {

/// Receives one request's updates, in order and one at a time, on the leader's thread (when the job
/// fails, on the one that saw it): must return at once (post to an io_context). The last update has
/// finished = true. After cancel() returns none may follow but those already under way.
class UpdateSink {
 public:
  virtual ~UpdateSink() = default;
  virtual void on_update(const RequestUpdate& update) = 0;
};

enum class ServiceState : uint8_t { kLoading, kReady, kDraining, kFailed };

/// Numbers for /health, /metrics and the limits the API checks before submitting.
struct ServiceInfo {
  std::string model_name;
  int64_t vocab_size = 0;
  int64_t max_context_tokens = 0;
  int64_t kv_capacity_tokens = 0;
  std::vector<int32_t> eos_token_ids;
};

/// Any thread.
class GenerationService {
 public:
  virtual ~GenerationService() = default;

  /// Queues a request (its id is assigned here and returned). Errors: kInvalidArgument as in
  /// Scheduler::add, kResourceExhausted when the queue is full, kUnavailable when draining, loading
  /// or failed.
  virtual Result<RequestId> submit(Request request, std::shared_ptr<UpdateSink> sink) = 0;

  /// The client is gone or has enough: blocks are free before the next step.
  virtual void cancel(RequestId id) = 0;

  virtual ServiceState state() const = 0;
  virtual const ServiceInfo& info() const = 0;
};

}  // namespace phalanx
