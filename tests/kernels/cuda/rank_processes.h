// Ranks as processes forked from a test, with an exchange among them through the test. Used by the
// tests of peer memory; what runs here must not be in the middle of anything when it forks.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/peer_memory.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda::test {

namespace rank_processes_internal {

/// Texts over a socket pair, each after its length.
inline bool send_text(int socket, const std::string& text) {
  const auto length = static_cast<uint32_t>(text.size());
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
  bytes += text;
  return send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}
inline bool receive_text(int socket, std::string& text) {
  pollfd wait{socket, POLLIN, 0};
  if (poll(&wait, 1, 60'000) != 1) return false;
  uint32_t length = 0;
  if (recv(socket, &length, sizeof(length), MSG_WAITALL) != sizeof(length)) return false;
  text.resize(length);
  if (length == 0) return true;  // recv would wait for the next text
  return recv(socket, text.data(), length, MSG_WAITALL) == static_cast<ssize_t>(length);
}

}  // namespace rank_processes_internal

/// Calls work(rank, exchange) in a process for each rank; the statuses of waitpid: 0 for those
/// whose work returned true. Exchanges end when a process has gone.
inline std::vector<int> run_rank_processes(
    int size, const std::function<bool(int, const PeerExchange&)>& work) {
  using namespace rank_processes_internal;
  std::vector<int> sockets;
  std::vector<pid_t> processes;
  for (int rank = 0; rank < size; ++rank) {
    int pair[2] = {-1, -1};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) throw DeviceError("socketpair");
    const pid_t process = fork();
    if (process < 0) throw DeviceError("fork");
    if (process == 0) {
      close(pair[0]);
      for (const int other : sockets) close(other);
      int status = 2;
      try {
        const PeerExchange exchange = [&](const std::string& text) {
          std::vector<std::string> texts(static_cast<size_t>(size));
          bool came = send_text(pair[1], text);
          for (std::string& of_rank : texts) came = came && receive_text(pair[1], of_rank);
          if (!came) throw DeviceError("an exchange was broken off");
          return texts;
        };
        status = work(rank, exchange) ? 0 : 1;
      } catch (const std::exception& error) {
        std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      }
      _exit(status);
    }
    close(pair[1]);
    sockets.push_back(pair[0]);
    processes.push_back(process);
  }
  for (bool all_came = true; all_came;) {
    std::vector<std::string> texts(static_cast<size_t>(size));
    for (size_t rank = 0; rank < sockets.size(); ++rank)
      all_came = all_came && receive_text(sockets[rank], texts[rank]);
    for (size_t rank = 0; rank < sockets.size() && all_came; ++rank)
      for (const std::string& text : texts) all_came = all_came && send_text(sockets[rank], text);
  }
  for (const int socket : sockets) close(socket);
  std::vector<int> statuses;
  for (const pid_t process : processes) {
    int status = -1;
    waitpid(process, &status, 0);
    statuses.push_back(status);
  }
  return statuses;
}

}  // namespace phalanx::kernels::cuda::test
