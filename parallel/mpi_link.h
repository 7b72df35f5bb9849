// A PeerLink over MPI messages, for ranks on different hosts. Used by GroupCommunicator.
#pragma once

#include <deque>
#include <span>
#include <vector>

#include <mpi.h>

#include "parallel/peer_link.h"
#include "parallel/wait_policy.h"

namespace phalanx::parallel {

/// Starts every message without blocking and tests for its end: first without sleeping, then with
/// short sleeps, since a rank that blocks inside MPI burns a core and cannot be interrupted.
class MpiLink : public PeerLink {
 public:
  /// `peer` is the rank in `communicator` and the index in context.peers; neither is owned.
  MpiLink(MPI_Comm communicator, int peer, const WaitContext& context)
      : communicator_(communicator), peer_(peer), context_(context) {}
  ~MpiLink() override;
  MpiLink(const MpiLink&) = delete;
  MpiLink& operator=(const MpiLink&) = delete;

  void send(std::span<const std::byte> data) override;
  void recv(std::span<std::byte> data) override;
  void exchange(std::span<const std::byte> out, std::span<std::byte> in) override;
  void post(std::span<const std::byte> data) override;
  bool push_posted() override;
  bool can_recv() override;

 private:
  MPI_Request start_send(std::span<const std::byte> part);
  MPI_Request start_recv(std::span<std::byte> part);
  void wait(std::span<MPI_Request> requests, std::span<MPI_Status> statuses, size_t num_bytes);
  void check_received(const MPI_Status& status, size_t expected) const;

  /// A message on its way: MPI reads the bytes until the request is done.
  struct Posted {
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  std::deque<Posted> posted_;

  MPI_Comm communicator_;
  int peer_;
  const WaitContext& context_;
};

}  // namespace phalanx::parallel
