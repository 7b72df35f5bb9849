// Step messages over TCP, for ranks on other hosts than the leader. Used by the step channel.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/tcp_star.h"
#include "parallel/wait_policy.h"

namespace phalanx::parallel {

/// The leader's end: one socket a remote rank. A message is its length in four bytes and its bytes.
class StepSocketWriter {
 public:
  /// readers[i] is "rank 3 on node2" for sockets[i].
  StepSocketWriter(std::vector<Socket> sockets, std::vector<std::string> readers);

  /// Hands the message to the system for every reader. Waits while a reader's buffers are full.
  /// Errors: DeviceError naming the reader that is gone or made no room within the deadline.
  void publish(std::span<const std::byte> message, const WaitPolicy& policy);

 private:
  struct Reader {
    Socket socket;
    std::string name;
    size_t sent_bytes = 0;  ///< of the message in progress
  };
  /// Sends what the system takes; returns whether everything is out.
  bool send_some(Reader& reader, std::span<const std::byte> frame);

  std::vector<Reader> readers_;
};

/// A remote rank's end.
class StepSocketReader {
 public:
  /// `leader` is "rank 0 on node1". Messages above max_message_bytes are refused.
  StepSocketReader(Socket socket, std::string leader, size_t max_message_bytes);

  /// Like StepSubscriber::next.
  std::optional<std::vector<std::byte>> next(const WaitPolicy& policy,
                                             std::chrono::nanoseconds timeout);

 private:
  bool receive_some();
  bool has_message() const;
  std::vector<std::byte> take_message();

  Socket socket_;
  std::string leader_;
  size_t max_message_bytes_;
  std::vector<std::byte> received_;  ///< a message's beginning, or several messages
};

}  // namespace phalanx::parallel
