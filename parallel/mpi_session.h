// Owns MPI in this process: init, finalize, who is where, and the communicators made over it.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/rank_topology.h"

namespace phalanx::parallel {

/// Before MPI runs, the launcher's environment says who prints what concerns everybody. True
/// without one.
bool is_first_rank_of_environment();

struct MpiSessionOptions {
  /// For tests: gives each rank a made-up host, so that one machine behaves like several.
  std::function<std::string(int rank)> host_of_rank;
  /// Of one wait of a start-up exchange, until watched_by().
  std::chrono::milliseconds start_up_deadline{300'000};
};

/// MPI from construction to destruction; make one in main, first. Main thread only.
/// Works without mpirun too (a world of one). Errors: DeviceError when MPI refuses.
class MpiSession {
 public:
  /// Initializes MPI with MPI_THREAD_MULTIPLE and errors returned as codes.
  MpiSession(int* argc, char*** argv, const MpiSessionOptions& options = {});
  /// Finalizes MPI; but while an exception unwinds it leaves MPI alone, since the other ranks will
  /// not come to MPI_Finalize: the process ends with its error status, and with it the job.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const;
  int world_size() const;
  /// Host name of each rank.
  const std::vector<std::string>& hosts() const;
  /// Ranks on this host, and this rank's place among them.
  int local_size() const;
  int local_rank() const;
  /// memory_domains()[r] is the lowest rank whose shared memory rank r can map (tried at start, so
  /// containers that share a host name but not their processes are told apart).
  const std::vector<int>& memory_domains() const;

  /// Collective over `ranks` (ascending global ranks, this one among them): a communicator for the
  /// group. Members on one host talk through shared memory, others through MPI. Every rank of the
  /// world that is in some group calls this for the same sequence of groups it belongs to.
  std::unique_ptr<Communicator> make_communicator(std::span<const int> ranks,
                                                  const CommunicatorOptions& options,
                                                  const AbortFlag* abort);

  /// Start-up exchanges over the whole world (small messages). A wait that outlasts the start-up
  /// deadline throws DeviceError naming the verb, the missing rank and its host.
  std::vector<std::string> all_gather(const std::string& text);
  std::string broadcast(const std::string& text, int root);
  int64_t all_reduce_min(int64_t value);

  /// From here on a JobMonitor decides how long these exchanges wait, and ends them by `abort`;
  /// null: the deadline does again.
  void watched_by(const AbortFlag* abort);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace phalanx::parallel
