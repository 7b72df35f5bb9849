// A connection's state machine. One read is pending nearly always, also while an answer is under
// way: that is how a client's going away is noticed at once.
#include "runtime/server/http_connection.h"

#include <cstdio>
#include <exception>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/error.hpp>

#include "runtime/base/log.h"
#include "runtime/server/connection_exchange.h"

namespace phalanx {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::beast::iequals;

constexpr size_t kWriteSliceBytes = 64 * 1024;
constexpr size_t kMaxLingerBytes = 4 * 1024 * 1024;
constexpr std::chrono::milliseconds kLingerTime{2000};

std::string to_lower(boost::beast::string_view text) {
  std::string lower(text.data(), text.size());
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

// "http://host:1/path?q" and "/path?q" alike become path and query.
void split_target(std::string_view target, HttpRequest& request) {
  const size_t scheme = target.find("://");
  if (!target.empty() && target.front() != '/' && scheme != std::string_view::npos) {
    const size_t slash = target.find('/', scheme + 3);
    target = slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
  }
  target = target.substr(0, target.find('#'));
  const size_t question = target.find('?');
  request.path = std::string(target.substr(0, question));
  if (question != std::string_view::npos) request.query = std::string(target.substr(question + 1));
}

}  // namespace

HttpConnection::HttpConnection(Socket socket, ConnectionHost& host)
    : socket_(std::move(socket)),
      host_(host),
      options_(host.options),
      timer_(socket_.get_executor()) {
  ErrorCode ignored;
  const auto remote = socket_.remote_endpoint(ignored);
  if (!ignored) remote_address_ = remote.address().to_string();
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  if (options_.send_buffer_bytes > 0)
    socket_.set_option(asio::socket_base::send_buffer_size(options_.send_buffer_bytes), ignored);
}

HttpConnection::~HttpConnection() = default;

void HttpConnection::start() {
  post([self = this] {
    if (self->state_ == State::kClosed) return;
    self->begin_next_request();
    self->read_more();
  });
}

void HttpConnection::refuse() {
  post([self = this] {
    if (self->state_ == State::kClosed) return;
    self->refuse_request(503, "too many connections: at most " +
                                  std::to_string(self->options_.max_connections) + " are served");
    self->read_more();
  });
}

void HttpConnection::drain() {
  post([self = this] {
    if (self->state_ == State::kIdle && self->buffer_.empty()) self->close();
  });
}

void HttpConnection::abort() {
  post([self = this] { self->close(); });
}

// The lambda given holds no reference of its own: this one keeps the connection alive.
void HttpConnection::post(std::function<void()> task) {
  asio::post(socket_.get_executor(),
             [self = shared_from_this(), task = std::move(task)] { task(); });
}

// ---------------------------------------------------------------------------------------- reading

void HttpConnection::read_more() {
  if (reading_ || end_of_input_ || state_ == State::kClosed) return;
  // While a request is being answered, what the client sends ahead is limited; TCP holds the rest.
  if (state_ == State::kAnswering && buffer_.size() >= options_.max_pipelined_bytes) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(chunk_),
                          [self = shared_from_this()](const ErrorCode& error, size_t num_bytes) {
                            self->on_read(error, num_bytes);
                          });
}

void HttpConnection::on_read(const ErrorCode& error, size_t num_bytes) {
  reading_ = false;
  if (state_ == State::kClosed) return;
  if (error) {
    end_of_input_ = true;
    // A client that only closed its sending side may still wait for an answer that is complete.
    const bool answered = state_ == State::kAnswering && answer_complete_;
    if (!answered || error != asio::error::eof) close();
    return;
  }
  if (state_ == State::kLingering) {
    lingered_bytes_ += num_bytes;
    if (lingered_bytes_ > kMaxLingerBytes) return close();
  } else {
    buffer_.append(chunk_.data(), num_bytes);
    if (state_ != State::kAnswering) parse();
  }
  read_more();
}

void HttpConnection::begin_next_request() {
  forget_callbacks();
  answer_complete_ = false;
  streaming_ = false;
  chunked_ = false;
  head_only_ = false;
  parser_.reset();
  header_bytes_ = 0;
  state_ = State::kIdle;
  answer_deadline_ = kNever;
  heartbeat_at_ = kNever;
  set_deadline(read_deadline_, Clock::now() + options_.idle_timeout);
}

void HttpConnection::parse() {
  size_t used = 0;
  if (state_ == State::kIdle) {
    // Empty lines before a request line are allowed (RFC 9112, 2.2).
    while (buffer_.compare(used, 2, "\r\n") == 0) used += 2;
    if (used == buffer_.size()) {
      buffer_.clear();
      return;
    }
    if (buffer_.size() - used == 1 && buffer_[used] == '\r') {
      buffer_.erase(0, used);
      return;
    }
    parser_.emplace();
    parser_->header_limit(static_cast<uint32_t>(options_.max_header_bytes));
    parser_->body_limit(options_.max_body_bytes);
    state_ = State::kHeader;
    set_deadline(read_deadline_, Clock::now() + options_.header_timeout);
  }

  ErrorCode error;
  while (used < buffer_.size() && !parser_->is_done() && !error) {
    const bool in_header = !parser_->is_header_done();
    const size_t num_parsed =
        parser_->put(asio::const_buffer(buffer_.data() + used, buffer_.size() - used), error);
    used += num_parsed;
    if (in_header) header_bytes_ += num_parsed;
    if (in_header && parser_->is_header_done() && !error) {
      if (!on_header()) return;
    } else if (num_parsed == 0 && !error) {
      break;
    }
  }
  buffer_.erase(0, used);

  const size_t body_bytes = parser_->get().body().size();
  host_.all_bodies_bytes += body_bytes - counted_body_bytes_;
  counted_body_bytes_ = body_bytes;

  if (error == http::error::need_more) error = {};
  if (error == http::error::body_limit) {
    return refuse_request(413, "the body is larger than the " +
                                   std::to_string(options_.max_body_bytes) + " bytes allowed");
  }
  const bool header_too_large =
      !parser_->is_header_done() && header_bytes_ + buffer_.size() >= options_.max_header_bytes;
  if (error == http::error::header_limit || (!error && header_too_large)) {
    const std::string allowed = std::to_string(options_.max_header_bytes) + " bytes allowed";
    if (header_bytes_ == 0)
      return refuse_request(414, "the request line is longer than the " + allowed);
    return refuse_request(431, "the header fields are longer than the " + allowed);
  }
  if (error) return refuse_request(400, "malformed HTTP request: " + error.message());
  if (parser_->is_done()) return dispatch();
  if (state_ == State::kBody && buffer_.size() > options_.max_header_bytes)
    return refuse_request(400, "a chunk header or trailer is longer than the " +
                                   std::to_string(options_.max_header_bytes) + " bytes allowed");
  if (host_.all_bodies_bytes > options_.max_all_bodies_bytes)
    return refuse_request(503, "too many request bodies are being received; try again");
}

bool HttpConnection::on_header() {
  const auto& message = parser_->get();
  size_t num_fields = 0;
  size_t num_hosts = 0;
  size_t num_transfer_encodings = 0;
  bool only_chunked = true;
  for (const auto& field : message) {
    ++num_fields;
    if (field.name() == http::field::host) ++num_hosts;
    if (field.name() == http::field::transfer_encoding) {
      ++num_transfer_encodings;
      only_chunked = only_chunked && iequals(field.value(), "chunked");
    }
  }
  if (num_fields > options_.max_header_fields) {
    refuse_request(431, std::to_string(num_fields) + " header fields; at most " +
                            std::to_string(options_.max_header_fields) + " are allowed");
    return false;
  }
  // Anything but plain chunked leaves open where the body ends: a door for smuggled requests.
  if (num_transfer_encodings > 1 || !only_chunked) {
    refuse_request(501, "Transfer-Encoding must be chunked or absent");
    return false;
  }
  if (num_transfer_encodings != 0 && message.version() < 11) {
    refuse_request(400, "Transfer-Encoding in an HTTP/1.0 request");
    return false;
  }
  if (num_hosts > 1 || (num_hosts == 0 && message.version() >= 11)) {
    refuse_request(400, "an HTTP/1.1 request needs exactly one Host field");
    return false;
  }
  if (!parser_->is_done()) {
    state_ = State::kBody;
    set_deadline(read_deadline_, Clock::now() + options_.body_timeout);
    const auto expect = message[http::field::expect];
    if (!expect.empty() && !iequals(expect, "100-continue")) {
      refuse_request(417, "Expect must be 100-continue or absent");
      return false;
    }
    if (!expect.empty() && message.version() >= 11) {
      queue("HTTP/1.1 100 Continue\r\n\r\n");
      flush();
    }
  }
  return true;
}

void HttpConnection::dispatch() {
  HttpRequest request;
  request.received_at = Clock::now();
  http::request<http::string_body> message = parser_->release();
  host_.all_bodies_bytes -= std::exchange(counted_body_bytes_, 0);
  request.method = std::string(message.method_string());
  split_target({message.target().data(), message.target().size()}, request);
  for (const auto& field : message) {
    request.headers.emplace_back(to_lower(field.name_string()),
                                 std::string(field.value().data(), field.value().size()));
  }
  request.remote_address = remote_address_;
  keep_alive_ = message.keep_alive();
  http_1_0_ = message.version() < 11;
  head_only_ = request.method == "HEAD";
  request.body = std::move(message.body());
  parser_.reset();

  state_ = State::kAnswering;
  set_deadline(read_deadline_, kNever);
  const uint64_t serial = ++serial_;
  try {
    host_.handler.handle(std::move(request), make_connection_exchange(weak_from_this(), serial));
  } catch (const std::exception& error) {
    PHALANX_ERROR("http: a handler failed: " << error.what());
    fail_answer(serial, error.what());
  }
  // The client closed its sending side before this (pipelined) request was even read.
  if (state_ == State::kAnswering && end_of_input_ && !answer_complete_) close();
}

// -------------------------------------------------------------------------------------- answering

void HttpConnection::refuse_request(int status, const std::string& message) {
  PHALANX_DEBUG("http: " << remote_address_ << ": " << status << " " << message);
  host_.all_bodies_bytes -= std::exchange(counted_body_bytes_, 0);
  parser_.reset();
  buffer_.clear();
  state_ = State::kAnswering;
  set_deadline(read_deadline_, kNever);
  keep_alive_ = false;
  respond(++serial_, host_.handler.error_response(status, message));
}

void HttpConnection::fail_answer(uint64_t serial, const std::string& what) {
  if (!is_current(serial)) return;
  if (streaming_) return abort_answer(serial);
  keep_alive_ = false;
  respond(serial, host_.handler.error_response(500, "internal error: " + what));
}

ResponseFraming HttpConnection::framing() const {
  ResponseFraming framing;
  framing.cors_allow_origin = options_.cors_allow_origin;
  framing.keep_alive = keep_alive_;
  framing.http_1_0 = http_1_0_;
  if (streaming_) framing.body = chunked_ ? BodyFraming::kChunked : BodyFraming::kUntilClose;
  return framing;
}

void HttpConnection::respond(uint64_t serial, const HttpResponse& response) {
  if (!is_current(serial) || streaming_) return;
  if (host_.draining) keep_alive_ = false;
  answer_complete_ = true;
  queue(make_response_head(response, framing()));
  if (!head_only_ && response.status != 204 && response.status != 304) queue(response.body);
  flush();
}

void HttpConnection::begin_stream(uint64_t serial, const HttpResponse& head,
                                  std::string heartbeat) {
  if (!is_current(serial) || streaming_) return;
  if (host_.draining) keep_alive_ = false;
  streaming_ = true;
  chunked_ = !http_1_0_;
  if (!chunked_) keep_alive_ = false;  // HTTP/1.0: the end of the stream is the end of it all
  heartbeat_ = std::move(heartbeat);
  queue(make_response_head(head, framing()));
  flush();
  if (!heartbeat_.empty()) set_deadline(heartbeat_at_, Clock::now() + options_.heartbeat_interval);
}

bool HttpConnection::send(uint64_t serial, std::string_view bytes) {
  if (!is_current(serial) || !streaming_) return false;
  if (bytes.empty() || head_only_) return true;
  const size_t unsent = outgoing_.size() + in_flight_.size() - in_flight_offset_;
  if (unsent + bytes.size() > options_.max_unsent_bytes) return false;
  if (chunked_) {
    char size[24];
    std::snprintf(size, sizeof(size), "%zx\r\n", bytes.size());
    queue(size);
    queue(bytes);
    queue("\r\n");
  } else {
    queue(bytes);
  }
  flush();
  if (!heartbeat_.empty()) set_deadline(heartbeat_at_, Clock::now() + options_.heartbeat_interval);
  return true;
}

void HttpConnection::end_stream(uint64_t serial) {
  if (!is_current(serial) || !streaming_) return;
  answer_complete_ = true;
  heartbeat_at_ = kNever;
  if (chunked_ && !head_only_) queue("0\r\n\r\n");
  if (outgoing_.empty() && !writing_) {
    // Not from here: the caller may be a handler that still holds references to this answer.
    post([self = this] { self->on_all_written(); });
  } else {
    flush();
  }
}

void HttpConnection::abort_answer(uint64_t serial) {
  if (!is_current(serial)) return;
  disconnect_callback_ = nullptr;
  // A reset rather than an orderly end: the client must not take what it has for the whole.
  ErrorCode ignored;
  socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  close();
}

void HttpConnection::on_disconnect(uint64_t serial, std::function<void()> callback) {
  if (is_current(serial)) disconnect_callback_ = std::move(callback);
}

void HttpConnection::on_drained(uint64_t serial, std::function<void()> callback) {
  if (is_current(serial)) drained_callback_ = std::move(callback);
}

void HttpConnection::on_timeout(uint64_t serial, std::chrono::milliseconds after,
                                std::function<void()> callback) {
  if (!is_current(serial)) return;
  timeout_callback_ = std::move(callback);
  set_deadline(answer_deadline_, Clock::now() + after);
}

// ---------------------------------------------------------------------------------------- writing

void HttpConnection::queue(std::string_view bytes) { outgoing_.append(bytes); }

void HttpConnection::flush() {
  if (writing_ || outgoing_.empty() || state_ == State::kClosed) return;
  writing_ = true;
  in_flight_.clear();
  in_flight_.swap(outgoing_);
  in_flight_offset_ = 0;
  write_slice();
}

void HttpConnection::write_slice() {
  const size_t num_bytes = std::min(kWriteSliceBytes, in_flight_.size() - in_flight_offset_);
  set_deadline(write_deadline_, Clock::now() + options_.write_timeout);
  asio::async_write(socket_, asio::buffer(in_flight_.data() + in_flight_offset_, num_bytes),
                    [self = shared_from_this()](const ErrorCode& error, size_t num_written) {
                      self->on_written(error, num_written);
                    });
}

void HttpConnection::on_written(const ErrorCode& error, size_t num_bytes) {
  if (state_ == State::kClosed) return;
  if (error) return close();
  in_flight_offset_ += num_bytes;
  if (in_flight_offset_ < in_flight_.size()) return write_slice();
  in_flight_.clear();
  in_flight_offset_ = 0;
  writing_ = false;
  write_deadline_ = kNever;
  if (!outgoing_.empty()) return flush();
  on_all_written();
}

void HttpConnection::on_all_written() {
  if (state_ != State::kAnswering || writing_ || !outgoing_.empty()) return;
  if (answer_complete_) return complete_answer();
  if (drained_callback_) call_back(drained_callback_);
}

void HttpConnection::complete_answer() {
  if (!keep_alive_) return linger();
  begin_next_request();
  if (!buffer_.empty()) parse();
  if (state_ == State::kClosed) return;
  if (state_ != State::kAnswering) {
    if (end_of_input_ || (host_.draining && state_ == State::kIdle)) return close();
  }
  read_more();
}

// ----------------------------------------------------------------------------------- time and end

void HttpConnection::set_deadline(Clock::time_point& slot, Clock::time_point when) {
  slot = when;
  if (when < armed_for_) arm_timer();
}

void HttpConnection::arm_timer() {
  if (state_ == State::kClosed) return;
  const auto next = std::min(std::min(read_deadline_, write_deadline_),
                             std::min(heartbeat_at_, answer_deadline_));
  if (next >= armed_for_) return;
  armed_for_ = next;
  timer_.expires_at(next);
  timer_.async_wait([weak = weak_from_this()](const ErrorCode& error) {
    if (error) return;  // re-armed for an earlier time, or closed
    if (auto self = weak.lock()) self->on_timer();
  });
}

void HttpConnection::on_timer() {
  if (state_ == State::kClosed) return;
  armed_for_ = kNever;
  const auto now = Clock::now();
  if (now >= write_deadline_) {
    PHALANX_DEBUG("http: " << remote_address_ << " takes too little; closed");
    return close();
  }
  if (now >= read_deadline_) {
    read_deadline_ = kNever;
    on_read_deadline();
    if (state_ == State::kClosed) return;
  }
  if (now >= heartbeat_at_) {
    heartbeat_at_ = now + options_.heartbeat_interval;
    if (!writing_) send(serial_, heartbeat_);
  }
  if (now >= answer_deadline_) {
    answer_deadline_ = kNever;
    if (timeout_callback_) call_back(std::exchange(timeout_callback_, nullptr));
    if (state_ == State::kClosed) return;
  }
  arm_timer();
}

void HttpConnection::on_read_deadline() {
  switch (state_) {
    case State::kHeader:
      return refuse_request(408, "the request's header did not arrive within " +
                                     std::to_string(options_.header_timeout.count()) + " ms");
    case State::kBody:
      return refuse_request(408, "the request's body did not arrive within " +
                                     std::to_string(options_.body_timeout.count()) + " ms");
    case State::kIdle:
    case State::kLingering:
      return close();
    case State::kAnswering:
    case State::kClosed:
      return;
  }
}

// Says goodbye and reads on for a moment: closing over unread bytes would send a reset, which can
// take the answer away from the client before it has read it.
void HttpConnection::linger() {
  forget_callbacks();
  state_ = State::kLingering;
  ErrorCode ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  if (end_of_input_) return close();
  buffer_.clear();
  set_deadline(read_deadline_, Clock::now() + kLingerTime);
  read_more();
}

void HttpConnection::close() {
  if (state_ == State::kClosed) return;
  const bool was_answering = state_ == State::kAnswering && !answer_complete_;
  state_ = State::kClosed;
  host_.all_bodies_bytes -= std::exchange(counted_body_bytes_, 0);
  timer_.cancel();
  ErrorCode ignored;
  socket_.close(ignored);
  const auto callback = std::move(disconnect_callback_);
  forget_callbacks();
  outgoing_.clear();
  if (was_answering && callback) call_back(callback);
  const auto self = shared_from_this();  // the server's reference ends here
  host_.on_closed(this);
}

void HttpConnection::call_back(const std::function<void()>& callback) {
  const auto copy = callback;  // the call may replace or forget the original
  const uint64_t serial = serial_;
  try {
    copy();
  } catch (const std::exception& error) {
    PHALANX_ERROR("http: an answer's callback failed: " << error.what());
    fail_answer(serial, error.what());
  }
}

void HttpConnection::forget_callbacks() {
  // Moved out first: destroying a callback may destroy the last handle, which posts.
  const auto disconnect = std::exchange(disconnect_callback_, nullptr);
  const auto drained = std::exchange(drained_callback_, nullptr);
  const auto timeout = std::exchange(timeout_callback_, nullptr);
}

}  // namespace phalanx
