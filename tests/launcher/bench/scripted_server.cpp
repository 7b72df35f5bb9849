// Blocking sockets with short timeouts, so that stop() is quick.
#include "tests/launcher/bench/scripted_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace phalanx::bench::testing {
namespace {

constexpr int kPollMs = 20;

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int bound_socket(uint16_t& port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof(address);
  if (::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw std::runtime_error("no port for a test server");
  port = ntohs(address.sin_port);
  return socket;
}

}  // namespace

void ScriptedConnection::send(std::string_view bytes) {
  while (!bytes.empty() && socket_ >= 0) {
    const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return close();
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

void ScriptedConnection::begin_stream() {
  send(
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: "
      "chunked\r\n\r\n");
}

void ScriptedConnection::send_chunk(std::string_view bytes) {
  char size[32];
  std::snprintf(size, sizeof(size), "%zx\r\n", bytes.size());
  send(std::string(size) + std::string(bytes) + "\r\n");
}

void ScriptedConnection::send_event(std::string_view data) {
  send_chunk("data: " + std::string(data) + "\n\n");
}

void ScriptedConnection::end_stream() { send("0\r\n\r\n"); }

void ScriptedConnection::send_answer(int num_tokens, int prompt_tokens,
                                     std::chrono::milliseconds between) {
  begin_stream();
  for (int i = 0; i < num_tokens; ++i) {
    if (i > 0 && between.count() > 0) sleep(between);
    send_event(R"({"choices":[{"index":0,"text":"x","finish_reason":null}],"usage":null})");
  }
  send_event(R"({"choices":[{"index":0,"text":"","finish_reason":"length"}]})");
  if (prompt_tokens > 0)
    send_event(R"({"choices":[],"usage":{"prompt_tokens":)" + std::to_string(prompt_tokens) +
               R"(,"completion_tokens":)" + std::to_string(num_tokens) + "}}");
  send_event("[DONE]");
  end_stream();
}

void ScriptedConnection::respond(int status, std::string_view content_type, std::string_view text) {
  send("HTTP/1.1 " + std::to_string(status) +
       " Scripted\r\nContent-Type: " + std::string(content_type) +
       "\r\nContent-Length: " + std::to_string(text.size()) + "\r\n\r\n" + std::string(text));
}

void ScriptedConnection::sleep(std::chrono::milliseconds time) const {
  const auto end = std::chrono::steady_clock::now() + time;
  while (!stops_ && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(
        std::chrono::milliseconds(5), end - std::chrono::steady_clock::now()));
}

void ScriptedConnection::close() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
}

void ScriptedConnection::reset() {
  const linger hard{1, 0};
  if (socket_ >= 0) ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  close();
}

bool ScriptedConnection::read_request() {
  const auto fill = [&] {
    while (socket_ >= 0 && !stops_) {
      pollfd ready{socket_, POLLIN, 0};
      if (::poll(&ready, 1, kPollMs) == 0) continue;
      char bytes[65536];
      const ssize_t got = ::recv(socket_, bytes, sizeof(bytes), 0);
      if (got <= 0) return false;
      buffer_.append(bytes, static_cast<size_t>(got));
      return true;
    }
    return false;
  };
  size_t end = 0;
  while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
    if (!fill()) return false;
  }
  head = buffer_.substr(0, end + 2);
  buffer_.erase(0, end + 4);
  constexpr char kLength[] = "Content-Length: ";
  const size_t length = head.find(kLength);
  const size_t size =
      length == std::string::npos
          ? 0
          : static_cast<size_t>(std::atoll(head.c_str() + length + sizeof(kLength) - 1));
  while (buffer_.size() < size) {
    if (!fill()) return false;
  }
  body = buffer_.substr(0, size);
  buffer_.erase(0, size);
  return true;
}

ScriptedServer::ScriptedServer(Script script) : script_(std::move(script)) {
  listener_ = bound_socket(port_);
  ::listen(listener_, 128);
  acceptor_ = std::thread([this] { listen(); });
}

void ScriptedServer::listen() {
  while (!stops_) {
    pollfd ready{listener_, POLLIN, 0};
    if (::poll(&ready, 1, kPollMs) <= 0) continue;
    const int socket = ::accept(listener_, nullptr, nullptr);
    if (socket < 0) continue;
    const int number = num_connections_++;
    const std::lock_guard lock(mutex_);
    threads_.emplace_back([this, socket, number] { serve(socket, number); });
  }
}

void ScriptedServer::serve(int socket, int number) {
  const int no_delay = 1;  // what is sent apart arrives apart
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &no_delay, sizeof(no_delay));
  ScriptedConnection connection(socket, stops_);
  connection.number = number;
  while (connection.read_request()) {
    connection.request_number = num_requests_++;
    {
      const std::lock_guard lock(mutex_);
      bodies_.push_back(connection.body);
      most_running_ = std::max<int>(most_running_, ++num_running_);
    }
    script_(connection);
    --num_running_;
  }
  connection.close();
}

std::vector<std::string> ScriptedServer::bodies() const {
  const std::lock_guard lock(mutex_);
  return bodies_;
}

void ScriptedServer::stop() {
  if (stops_.exchange(true)) return;
  acceptor_.join();
  ::close(listener_);
  for (std::thread& thread : threads_) thread.join();
}

uint16_t unused_port() {
  uint16_t port = 0;
  ::close(bound_socket(port));
  return port;
}

}  // namespace phalanx::bench::testing
