// A rank's state while it waits for a peer. Used by graph_executor.
#pragma once

#include "parallel/job_monitor.h"

namespace phalanx {

/// Marks the rank as waiting for a peer while in scope.
class WaitingScope {
 public:
  explicit WaitingScope(parallel::Progress& progress) : progress_(progress) {
    progress_.set_state(parallel::Progress::State::kWaiting);
  }
  ~WaitingScope() { progress_.set_state(parallel::Progress::State::kBusy); }
  WaitingScope(const WaitingScope&) = delete;
  WaitingScope& operator=(const WaitingScope&) = delete;

 private:
  parallel::Progress& progress_;
};

}  // namespace phalanx
