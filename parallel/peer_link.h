// The ordered byte channel between this rank and one other, whatever carries it. Implemented over
// shared memory and over MPI; used by GroupCommunicator.
#pragma once

#include <cstddef>
#include <span>

namespace phalanx::parallel {

/// Thread: the communicator's. Errors: DeviceError from waits, InternalError when a received size
/// is not the sent one.
class PeerLink {
 public:
  virtual ~PeerLink() = default;
  virtual void send(std::span<const std::byte> data) = 0;
  virtual void recv(std::span<std::byte> data) = 0;
  /// send and recv of equal sizes at the same time, so that two ranks may face each other.
  virtual void exchange(std::span<const std::byte> out, std::span<std::byte> in) = 0;
  /// Like send, but takes a copy of what does not go at once; push_posted moves it on. Order holds
  /// among posts and sends.
  virtual void post(std::span<const std::byte> data) = 0;
  /// Never waits. True when everything posted has gone.
  virtual bool push_posted() = 0;
  /// Whether recv would find at least the start of a message.
  virtual bool can_recv() = 0;
};

}  // namespace phalanx::parallel
