// TCP connections between the leader and other ranks, set up with MPI's help. Used by the step
// channel and the job monitor.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace phalanx::parallel {

class MpiSession;

/// Owns a file descriptor.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  ~Socket() { close(); }
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int descriptor() const { return descriptor_; }
  bool is_open() const { return descriptor_ >= 0; }
  void close();

 private:
  int descriptor_ = -1;
};

/// Connects each rank of `spokes` (ascending, without the leader; the same list everywhere) with
/// the leader, rank 0. Collective over the world. On the leader the result has a socket at each
/// spoke's rank; on a spoke only at 0; on others none. The leader listens on a port of the system's
/// choice while this runs; a spoke tries its addresses one after another until one answers with the
/// job's secret. Sockets are nonblocking with TCP_NODELAY. Errors: DeviceError on every rank,
/// naming the spoke and what it tried.
std::vector<Socket> make_tcp_star(MpiSession& session, const std::vector<int>& spokes,
                                  const char* purpose, std::chrono::milliseconds deadline);

}  // namespace phalanx::parallel
