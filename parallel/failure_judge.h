// Decides from heartbeats which rank of a job has failed, and how. Pure: time comes as an argument.
// Used by the leader's job monitor.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "parallel/job_monitor.h"
#include "parallel/rank_status.h"

namespace phalanx::parallel {

/// Thread: the monitor's.
class FailureJudge {
 public:
  using Clock = std::chrono::steady_clock;

  /// rank_names[r] is "rank 3 on node2".
  FailureJudge(std::vector<std::string> rank_names, const JobMonitorOptions& options,
               Clock::time_point now);

  void observe(int rank, const RankStatus& status, Clock::time_point now);
  /// The rank has ended in order: it owes nothing more.
  void release(int rank);
  /// The watcher itself did not run for `pause`: nobody is blamed for that time.
  void forgive(Clock::duration pause);

  /// What is wrong at `now`, as the sentence to print, naming one rank:
  /// - no heartbeat for longer than options.silence: the rank is lost;
  /// - a busy rank without progress for its deadline: it hangs (ranks that wait for it are not
  ///   blamed);
  /// - all ranks that are not idle wait, none with progress for its deadline: the one in the lowest
  ///   step, and of those the one that has waited longest.
  std::optional<std::string> judge(Clock::time_point now) const;

  /// "rank 3 on node2 <what> at step ... in ...", from the rank's last heartbeat.
  std::string sentence(int rank, const std::string& what) const;

 private:
  struct Watched {
    std::string name;
    RankStatus status;
    Clock::time_point last_heartbeat;
    Clock::time_point last_progress;
    bool is_released = false;
  };
  std::optional<std::string> judge_silence(Clock::time_point now) const;
  std::optional<std::string> judge_progress(Clock::time_point now) const;
  bool is_stuck(const Watched& rank, Clock::time_point now) const;

  JobMonitorOptions options_;
  std::vector<Watched> ranks_;
};

}  // namespace phalanx::parallel
