// Carries step plans from the leader to every rank, in order: the control plane's one-way street.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace phalanx::parallel {

/// Leader's end. Thread: the leader's. publish() copies and returns at once unless a reader is
/// more than the ring's capacity behind (then it waits for room).
class StepPublisher {
 public:
  virtual ~StepPublisher() = default;
  virtual void publish(std::span<const std::byte> message) = 0;
};

/// A rank's end (the leader's own rank has one too). Thread: the executor's.
class StepSubscriber {
 public:
  virtual ~StepSubscriber() = default;
  /// The next message, in order. Sleeps (futex or socket, no CPU) until there is one; nullopt when
  /// `timeout` passes first. Throws DeviceError when the leader is gone or the job aborts.
  virtual std::optional<std::vector<std::byte>> next(std::chrono::milliseconds timeout) = 0;
};

struct StepChannelEnds {
  std::unique_ptr<StepPublisher> publisher;    ///< on the leader only
  std::unique_ptr<StepSubscriber> subscriber;  ///< on every rank
};

class MpiSession;

struct StepChannelOptions {
  size_t capacity_bytes = 8U << 20;  ///< ring bytes; a message is at most half of it
  bool spin = true;                  ///< spin some microseconds before sleeping
  /// Of publish(), without an abort flag; with one the JobMonitor decides (CommunicatorOptions).
  std::chrono::milliseconds deadline{60'000};
};

/// Collective over the world. Ranks on the leader's host read a shared-memory ring; ranks on other
/// hosts get messages over TCP.
StepChannelEnds make_step_channel(MpiSession& session, const StepChannelOptions& options,
                                  const AbortFlag* abort);

/// Both ends in one process, for one-rank jobs and tests.
StepChannelEnds make_local_step_channel(const StepChannelOptions& options, const AbortFlag* abort);

}  // namespace phalanx::parallel
