// A server that does what a test tells it, byte by byte, well-behaved or not. Used by the tests of
// llm-bench's load client.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace phalanx::bench::testing {

/// The connection a request came on. Used by its own thread only.
class ScriptedConnection {
 public:
  ScriptedConnection(int socket, const std::atomic<bool>& stops) : socket_(socket), stops_(stops) {}

  int number = 0;          ///< of the connection, from 0
  int request_number = 0;  ///< of the request, over all connections, from 0
  std::string head;        ///< request line and headers
  std::string body;        ///< of the request

  void send(std::string_view bytes);
  /// Status line, headers for an event stream with chunked framing.
  void begin_stream();
  void send_chunk(std::string_view bytes);
  /// "data: ...\n\n" as a chunk.
  void send_event(std::string_view data);
  void end_stream();
  /// A whole answer of `num_tokens` events "x", a finish reason, usage if `prompt_tokens` > 0, and
  /// [DONE].
  void send_answer(int num_tokens, int prompt_tokens,
                   std::chrono::milliseconds between = std::chrono::milliseconds(0));
  void respond(int status, std::string_view content_type, std::string_view text);
  void sleep(std::chrono::milliseconds time) const;  ///< less when the server is being stopped
  void close();
  void reset();  ///< as a killed peer's kernel does
  bool read_request();

 private:
  int socket_;
  const std::atomic<bool>& stops_;
  std::string buffer_;
};

/// Listens on 127.0.0.1; one thread a connection. The script is called for every request.
class ScriptedServer {
 public:
  using Script = std::function<void(ScriptedConnection&)>;

  explicit ScriptedServer(Script script);
  ~ScriptedServer() { stop(); }
  ScriptedServer(const ScriptedServer&) = delete;
  ScriptedServer& operator=(const ScriptedServer&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  uint16_t port() const { return port_; }
  int num_connections() const { return num_connections_; }
  int num_requests() const { return num_requests_; }
  int most_running() const { return most_running_; }  ///< scripts at a time
  std::vector<std::string> bodies() const;            ///< of all requests
  void stop();                                        ///< closes the port and all connections

 private:
  void listen();
  void serve(int socket, int number);

  Script script_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::atomic<bool> stops_{false};
  std::atomic<int> num_connections_{0};
  std::atomic<int> num_requests_{0};
  std::atomic<int> num_running_{0};
  std::atomic<int> most_running_{0};
  mutable std::mutex mutex_;
  std::vector<std::thread> threads_;
  std::vector<std::string> bodies_;
  std::thread acceptor_;
};

/// A port of 127.0.0.1 on which nobody listens.
uint16_t unused_port();

}  // namespace phalanx::bench::testing
