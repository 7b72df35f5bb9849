// A PeerLink over MPI messages, for ranks on different hosts. Used by GroupCommunicator.
#pragma once

#include <span>

#include <mpi.h>

#include "parallel/peer_link.h"
#include "parallel/wait_policy.h"

namespace phalanx::parallel {

/// Starts every message without blocking and tests for its end: first without sleeping, then with
/// short sleeps, since a rank that blocks inside MPI burns a core and cannot be interrupted.
class MpiLink : public PeerLink {
 public:
  /// Messages of different tags do not see each other.
  enum Tag : int { kData = 1, kBarrier = 2 };

  /// `peer` is the rank in `communicator` and the index in context.peers; neither is owned.
  MpiLink(MPI_Comm communicator, int peer, const WaitContext& context, Tag tag = kData)
      : communicator_(communicator), peer_(peer), tag_(tag), context_(context) {}

  void send(std::span<const std::byte> data) override;
  void recv(std::span<std::byte> data) override;
  void exchange(std::span<const std::byte> out, std::span<std::byte> in) override;
  bool can_recv() override;

 private:
  MPI_Request start_send(std::span<const std::byte> part);
  MPI_Request start_recv(std::span<std::byte> part);
  void wait(std::span<MPI_Request> requests, std::span<MPI_Status> statuses);
  void check_received(const MPI_Status& status, size_t expected) const;

  MPI_Comm communicator_;
  int peer_;
  Tag tag_;
  const WaitContext& context_;
};

}  // namespace phalanx::parallel
