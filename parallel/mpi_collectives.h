// The MPI library's own collectives, to time ours beside. Used by llm-bench; nothing that serves
// calls them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "parallel/mpi_session.h"

namespace phalanx::parallel {

/// The verbs of Communicator as MPI offers them, over ranks of an MpiSession's world. Its sums need
/// not have our bits, and nobody watches its waits. Lives within the session; its thread. Errors:
/// DeviceError.
class MpiCollectives {
 public:
  /// Collective over `ranks` (ascending, this one among them).
  explicit MpiCollectives(std::span<const int> ranks);
  ~MpiCollectives();
  MpiCollectives(const MpiCollectives&) = delete;
  MpiCollectives& operator=(const MpiCollectives&) = delete;

  void all_reduce_sum(std::span<float> data);
  /// `out` is empty but on the root, where it has room for every rank's equally long part.
  void gather(std::span<const std::byte> part, std::span<std::byte> out, int root);
  void broadcast(std::span<std::byte> data, int root);
  void send(std::span<const std::byte> data, int peer);
  void recv(std::span<std::byte> data, int peer);

  /// "Open MPI v4.1.4".
  static std::string library();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace phalanx::parallel
