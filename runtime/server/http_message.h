// A request, a response and the handle to answer with, free of Boost: what lies between
// http_connection (which implements HttpExchange) and openai_api (which implements HttpHandler).
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace phalanx {

struct HttpRequest {
  std::string method;  ///< as sent; methods are case-sensitive
  std::string path;    ///< of the target, still percent-encoded, without the query; "/..." or "*"
  std::string query;   ///< after '?', still encoded; may be empty
  std::vector<std::pair<std::string, std::string>> headers;  ///< names in lower case
  std::string body;                                          ///< unchunked
  std::string remote_address;                                ///< without the port
  std::chrono::steady_clock::time_point received_at;         ///< when the last byte was read

  /// The first header of that lower-case name, or "".
  std::string_view header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return {};
  }
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;  ///< besides those the server adds
  std::string body;
};

/// The answer to one request: either respond(), or begin_stream() send()* end_stream(). Held by
/// whoever answers; dropping the last reference without an answer makes it a 500. Safe to use after
/// the connection is gone (calls do nothing then).
/// Thread: the connection's strand (where HttpHandler::handle runs), except post().
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  virtual void respond(HttpResponse response) = 0;

  /// Sends the head (response.body is ignored) and keeps the connection open. `heartbeat` is sent
  /// whenever the stream was silent for ServerOptions::heartbeat_interval; empty: never.
  virtual void begin_stream(HttpResponse head, std::string heartbeat) = 0;

  /// Queues bytes of the stream. False when the client is gone, or takes so little that more than
  /// max_unsent_bytes would wait: then nothing is queued, and the caller should cancel and abort().
  virtual bool send(std::string_view bytes) = 0;

  /// True while bytes wait for the client: a good time to gather more before the next send().
  virtual bool is_sending() const = 0;

  virtual void end_stream() = 0;

  /// Closes the connection without a proper end. on_disconnect is not called.
  virtual void abort() = 0;

  /// Called once if the client goes away (or the server is stopped) before the answer is complete.
  virtual void on_disconnect(std::function<void()> callback) = 0;

  /// Called whenever everything queued has been handed to the system and the stream is open.
  virtual void on_drained(std::function<void()> callback) = 0;

  /// Calls back once unless the answer is complete by then.
  virtual void on_timeout(std::chrono::milliseconds after, std::function<void()> callback) = 0;

  /// Runs the task on the connection's strand; drops it when the connection is gone. Any thread.
  virtual void post(std::function<void()> task) = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;

  /// Answers at once or later. Must not block. An exception becomes a 500. May be called on several
  /// threads at once, for different connections.
  virtual void handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) = 0;

  /// The body for an error that the HTTP layer found itself (400, 408, 413, 414, 417, 431, 501,
  /// 503) or that a handler's exception caused (500). Called instead of handle().
  virtual HttpResponse error_response(int status, const std::string& message) = 0;
};

}  // namespace phalanx
