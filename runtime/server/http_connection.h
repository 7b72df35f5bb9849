// One client's connection: reads requests, hands them to the handler, writes answers, keeps every
// limit and deadline. Made by http_server; the only other header that knows Boost.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "runtime/server/http_message.h"
#include "runtime/server/http_response_head.h"
#include "runtime/server/server_options.h"

namespace phalanx {

class HttpConnection;

/// What all connections of a server share. Outlives them.
struct ConnectionHost {
  const ServerOptions& options;
  HttpHandler& handler;
  std::atomic<size_t> all_bodies_bytes{0};  ///< of requests being read
  std::atomic<bool> draining{false};        ///< answers carry Connection: close
  std::function<void(HttpConnection*)> on_closed;
};

/// Everything but the constructor, post(), drain() and abort() on the socket's strand. The server
/// owns it until it calls ConnectionHost::on_closed.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Socket = boost::asio::ip::tcp::socket;

  /// The socket's executor is a strand of its own.
  HttpConnection(Socket socket, ConnectionHost& host);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  void start();   ///< any thread, once
  void refuse();  ///< any thread, instead of start(): answers 503 and closes
  void drain();   ///< any thread: closes now if idle, else after the current answer
  void abort();   ///< any thread: closes now; a running handler hears on_disconnect
  void post(std::function<void()> task);  ///< any thread

  bool is_closed() const { return state_ == State::kClosed; }

  // What HttpExchange does. `serial` tells this answer from earlier ones on the connection.
  void respond(uint64_t serial, const HttpResponse& response);
  void begin_stream(uint64_t serial, const HttpResponse& head, std::string heartbeat);
  bool send(uint64_t serial, std::string_view bytes);
  bool is_sending() const { return writing_; }
  void end_stream(uint64_t serial);
  void abort_answer(uint64_t serial);
  void on_disconnect(uint64_t serial, std::function<void()> callback);
  void on_drained(uint64_t serial, std::function<void()> callback);
  void on_timeout(uint64_t serial, std::chrono::milliseconds after, std::function<void()> callback);
  void fail_answer(uint64_t serial, const std::string& what);  ///< 500, or a cut stream

 private:
  using Clock = std::chrono::steady_clock;
  using ErrorCode = boost::system::error_code;
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  enum class State : uint8_t {
    kIdle,       ///< before the first byte of a request
    kHeader,     ///< inside the request line and fields
    kBody,       ///< inside the body
    kAnswering,  ///< the handler has the request, or its answer is being written
    kLingering,  ///< said goodbye; what the client still sends is thrown away for a while
    kClosed,
  };

  void read_more();
  void on_read(const ErrorCode& error, size_t num_bytes);
  void parse();
  bool on_header();  ///< false when it answered with an error
  void dispatch();
  void begin_next_request();

  void refuse_request(int status, const std::string& message);
  ResponseFraming framing() const;  ///< of the answer that begins now
  void queue(std::string_view bytes);
  void flush();
  void write_slice();
  void on_written(const ErrorCode& error, size_t num_bytes);
  void on_all_written();
  void complete_answer();

  void set_deadline(Clock::time_point& slot, Clock::time_point when);
  void arm_timer();
  void on_timer();
  void on_read_deadline();
  void call_back(const std::function<void()>& callback);

  void linger();
  void close();
  void forget_callbacks();
  bool is_current(uint64_t serial) const {
    return serial == serial_ && state_ == State::kAnswering && !answer_complete_;
  }

  Socket socket_;
  ConnectionHost& host_;
  const ServerOptions& options_;
  State state_ = State::kIdle;
  std::string remote_address_;

  // Reading.
  std::array<char, 8192> chunk_;
  std::string buffer_;  ///< read and not yet parsed
  bool reading_ = false;
  bool end_of_input_ = false;
  std::optional<Parser> parser_;
  size_t header_bytes_ = 0;
  size_t counted_body_bytes_ = 0;  ///< this request's share of host_.all_bodies_bytes
  size_t lingered_bytes_ = 0;

  // Answering.
  uint64_t serial_ = 0;
  bool keep_alive_ = false;
  bool head_only_ = false;
  bool http_1_0_ = false;
  bool streaming_ = false;
  bool chunked_ = false;
  bool answer_complete_ = false;
  std::string heartbeat_;
  std::function<void()> disconnect_callback_;
  std::function<void()> drained_callback_;
  std::function<void()> timeout_callback_;

  // Writing.
  std::string outgoing_;   ///< queued
  std::string in_flight_;  ///< being written, from in_flight_offset_ on
  size_t in_flight_offset_ = 0;
  bool writing_ = false;

  // Time: one timer, armed for the earliest of the deadlines; those that move later cost nothing.
  static constexpr Clock::time_point kNever = Clock::time_point::max();
  boost::asio::steady_timer timer_;
  Clock::time_point armed_for_ = kNever;
  Clock::time_point read_deadline_ = kNever;
  Clock::time_point write_deadline_ = kNever;
  Clock::time_point heartbeat_at_ = kNever;
  Clock::time_point answer_deadline_ = kNever;
};

}  // namespace phalanx
