// Owns one MPI communicator: the start-up exchanges over it and the error check of every MPI call.
// Used by MpiSession and GroupCommunicator; the only header that shows MPI, private to this folder.
#pragma once

#include <string>
#include <vector>

#include <mpi.h>

namespace phalanx::parallel {

/// Throws DeviceError with MPI's own words when `code` is not MPI_SUCCESS.
void check_mpi(int code, const char* operation);

/// Errors are returned as codes on it, never fatal by MPI's choice. All verbs are collective. A
/// rank that waits sleeps between short looks: ranks that are still loading need the cores.
class MpiGroup {
 public:
  /// Takes `communicator` over.
  explicit MpiGroup(MPI_Comm communicator);
  /// A group of our own with all of MPI_COMM_WORLD.
  static MpiGroup duplicate_of_world();
  ~MpiGroup();
  MpiGroup(MpiGroup&& other) noexcept;
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;

  MPI_Comm communicator() const { return communicator_; }
  int rank() const { return rank_; }
  int size() const { return size_; }

  std::vector<std::string> all_gather(const std::string& text) const;
  std::string broadcast(const std::string& text, int root) const;
  long long all_reduce_min(long long value) const;

 private:
  static void wait(MPI_Request request, const char* operation);

  MPI_Comm communicator_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace phalanx::parallel
