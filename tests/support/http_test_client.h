// A blocking HTTP client for tests: whole responses, server-sent events, and raw bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

namespace phalanx::testing {

struct ClientResponse {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  ///< names in lower case
  std::string body;                                          ///< unchunked
  bool complete = false;                                     ///< as the framing says

  std::string header(std::string_view name) const;
};

/// One connection to 127.0.0.1. Reads give up (and throw std::runtime_error) after `timeout`.
class HttpTestClient {
 public:
  explicit HttpTestClient(uint16_t port,
                          std::chrono::milliseconds timeout = std::chrono::milliseconds(10'000),
                          int receive_buffer_bytes = 0);

  ClientResponse request(const std::string& method, const std::string& target,
                         const std::string& body = "",
                         const std::vector<std::pair<std::string, std::string>>& headers = {});
  ClientResponse get(const std::string& target) { return request("GET", target); }
  ClientResponse post(const std::string& target, const std::string& json) {
    return request("POST", target, json, {{"Content-Type", "application/json"}});
  }

  /// Raw bytes. False when the server has closed.
  bool send_raw(std::string_view bytes);

  /// The next response from the connection. `head_only`: the answer to HEAD.
  ClientResponse read_response(bool head_only = false);

  /// The head of a response alone; then events one by one.
  ClientResponse read_head();
  /// The `data` of the next event ("" for one without data); nullopt at the end of the stream.
  std::optional<std::string> read_event();

  /// Reads until the server closes or resets; false when it does neither in time.
  bool wait_for_close();

  void close();  ///< orderly
  void reset();  ///< with a TCP reset
  void shutdown_send();

 private:
  bool fill();  ///< more bytes into buffer_; false at the end of input
  std::string read_line();
  std::optional<std::string> read_chunk();

  boost::asio::io_context io_;
  boost::asio::ip::tcp::socket socket_{io_};
  std::string buffer_;
  std::string events_;  ///< unchunked stream, not yet split
};

/// Sends one request on a fresh connection.
ClientResponse http_request(uint16_t port, const std::string& method, const std::string& target,
                            const std::string& body = "");

/// All events' data of a streamed answer on a fresh connection.
std::vector<std::string> http_events(uint16_t port, const std::string& method,
                                     const std::string& target, const std::string& body = "");

}  // namespace phalanx::testing
