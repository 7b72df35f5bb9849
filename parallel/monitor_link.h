// Small messages over one nonblocking socket, neither direction ever waiting. Used by the job
// monitor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "parallel/tcp_star.h"

namespace phalanx::parallel {

enum class MonitorMessage : uint8_t {
  kHeartbeat,    ///< both ways; a RankStatus
  kFail,         ///< to the leader: this rank failed; the sentence to print
  kAbort,        ///< from the leader: the job ends; the sentence
  kFinish,       ///< to the leader: this rank is done
  kFinishAgreed  ///< from the leader: all ranks are done
};

/// Thread: the monitor's.
class MonitorLink {
 public:
  MonitorLink() = default;
  explicit MonitorLink(Socket socket) : socket_(std::move(socket)) {}

  bool is_open() const { return socket_.is_open(); }
  int descriptor() const { return socket_.descriptor(); }
  bool has_unsent() const { return !unsent_.empty(); }

  /// Sends as much as the system takes now and keeps the rest. Text beyond 4 KiB is cut.
  void send(MonitorMessage kind, std::string_view text);
  void flush();

  /// Hands over every complete message that has come. False when the peer has closed the connection
  /// or sent what is no message: then the link is closed.
  bool receive(const std::function<void(MonitorMessage, std::string_view)>& handle);

 private:
  Socket socket_;
  std::string unsent_;
  std::string received_;
};

}  // namespace phalanx::parallel
