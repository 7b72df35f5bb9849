// Owns one MPI communicator: the start-up exchanges over it and the error check of every MPI call.
// Used by MpiSession and GroupCommunicator; the only header that shows MPI, private to this folder.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <mpi.h>

#include "parallel/communicator.h"

namespace phalanx::parallel {

/// Throws DeviceError with MPI's own words when `code` is not MPI_SUCCESS.
void check_mpi(int code, const char* operation);

/// How a start-up exchange waits, and whom it names when nobody comes.
struct StartUpWait {
  /// Long enough for the slowest opening of an engine over a network.
  std::chrono::milliseconds deadline{300'000};
  const AbortFlag* abort = nullptr;  ///< given: a JobMonitor decides, not the deadline
  std::vector<std::string> members;  ///< "rank 3 on node2" for member 3; empty: not known yet
};

/// Errors are returned as codes on it, never fatal by MPI's choice. All verbs are collective and go
/// through member 0 or the root, in messages of our own, so that whoever is missing is known by
/// name. A rank that waits sleeps between short looks: ranks that are still loading need the cores.
/// Errors: DeviceError naming the verb and the missing rank after the deadline.
class MpiGroup {
 public:
  /// Takes `communicator` over.
  MpiGroup(MPI_Comm communicator, StartUpWait wait);
  /// A group of our own with all of MPI_COMM_WORLD.
  static MpiGroup duplicate_of_world(StartUpWait wait);
  ~MpiGroup();
  MpiGroup(MpiGroup&& other) noexcept;
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;

  MPI_Comm communicator() const { return communicator_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  StartUpWait& wait() { return wait_; }

  std::vector<std::string> all_gather(const std::string& text) const;
  std::string broadcast(const std::string& text, int root) const;
  int64_t all_reduce_min(int64_t value) const;

 private:
  void finish(MPI_Request request, int member, const char* operation) const;
  void send(const std::string& text, int member, const char* operation) const;
  std::string receive(int member, const char* operation) const;
  template <typename Done>
  void wait_until(const Done& done, int member, const char* operation) const;

  MPI_Comm communicator_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  StartUpWait wait_;
};

}  // namespace phalanx::parallel
