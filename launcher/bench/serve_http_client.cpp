// Connect, write, read: exactly one operation is under way at a time, and its end is the only place
// where an exchange ends.
#include "launcher/bench/serve_http_client.h"

#include <utility>

#include <boost/asio/connect.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/error.hpp>

#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr uint32_t kMaxHeaderBytes = 64 * 1024;
constexpr uint64_t kMaxBodyBytes = 4ULL << 30;
constexpr size_t kMaxReplyBytes = 1U << 20;
constexpr size_t kReadBytes = 64 * 1024;

}  // namespace

Result<HttpTarget> resolve_target(const ServeUrl& url, std::string api_key) {
  asio::io_context io;
  error_code code;
  const auto found = tcp::resolver(io).resolve(url.host, url.port, code);
  if (code) return unavailable("cannot find the host " + url.host + ": " + code.message());
  HttpTarget target{url, {}, std::move(api_key)};
  for (const auto& entry : found) target.endpoints.push_back(entry.endpoint());
  return target;
}

std::string make_http_request(const HttpTarget& target, const std::string& method,
                              const std::string& path, const std::string& body) {
  std::string request = method + " " + path + " HTTP/1.1\r\nHost: " + target.url.authority() +
                        "\r\nUser-Agent: llm-bench\r\n";
  if (!target.api_key.empty()) request += "Authorization: Bearer " + target.api_key + "\r\n";
  if (!body.empty()) {
    request += "Content-Type: application/json\r\nAccept: text/event-stream\r\nContent-Length: " +
               std::to_string(body.size()) + "\r\n";
  }
  return request + "\r\n" + body;
}

HttpClient::HttpClient(asio::io_context& io, const HttpTarget& target)
    : target_(target), socket_(io), deadline_(io) {
  buffer_.reserve(kReadBytes);
}

void HttpClient::start(std::string request, std::chrono::milliseconds timeout, OnBytes on_bytes,
                       OnEnd on_end) {
  PHALANX_CHECK(!is_busy_, "an exchange is under way");
  is_busy_ = true;
  ++number_;
  request_ = std::move(request);
  timeout_ = timeout;
  on_bytes_ = std::move(on_bytes);
  on_end_ = std::move(on_end);
  head_ = {};
  has_answered_ = false;
  has_enough_ = false;
  stopped_as_.reset();
  write_error_.clear();
  set_deadline(timeout);
  is_reused_ = socket_.is_open();
  if (is_reused_) {
    write();
  } else {
    connect();
  }
}

void HttpClient::cancel() {
  if (is_busy_) stop(HttpEnd::kCancelled, "cancelled");
}

void HttpClient::set_deadline(std::chrono::milliseconds after) {
  deadline_.expires_after(after);
  deadline_.async_wait([this, number = number_](error_code code) {
    if (code || number != number_ || !is_busy_) return;
    if (has_enough_) {
      stop(HttpEnd::kDone, "");
    } else {
      stop(HttpEnd::kTimeout,
           "no complete answer within " + std::to_string(timeout_.count()) + " ms");
    }
  });
}

void HttpClient::stop(HttpEnd end, std::string reason) {
  if (stopped_as_) return;
  stopped_as_ = end;
  stop_reason_ = std::move(reason);
  close();
}

void HttpClient::connect() {
  is_reused_ = false;
  buffer_.clear();
  asio::async_connect(socket_, target_.endpoints, [this](error_code code, const tcp::endpoint&) {
    if (code) return fail(code, HttpEnd::kNoConnection, "connect to " + target_.url.authority());
    ++num_connections_;
    error_code ignored;  // a slower connection is still one
    socket_.set_option(tcp::no_delay(true), ignored);
    write();
  });
}

void HttpClient::write() {
  asio::async_write(socket_, asio::buffer(request_), [this](error_code code, size_t) {
    // A server that refuses a request may answer and close before it has read everything.
    if (code) write_error_ = "send: " + code.message();
    if (stopped_as_) return fail(code, HttpEnd::kBroken, "send");
    parser_.emplace();
    parser_->eager(true);
    parser_->header_limit(kMaxHeaderBytes);
    parser_->body_limit(kMaxBodyBytes);
    read();
  });
}

void HttpClient::read() {
  socket_.async_read_some(buffer_.prepare(kReadBytes), [this](error_code code, size_t num_bytes) {
    buffer_.commit(num_bytes);
    handle_read(code);
  });
}

// Beast's own read operations return when the message is whole or the buffer full; a stream's bytes
// are wanted as they come.
error_code HttpClient::parse(error_code code) {
  if (code == asio::error::eof) {
    code = {};
    if (!parser_->got_some()) return http::error::end_of_stream;
    parser_->put_eof(code);
    return code;
  }
  while (!code && buffer_.size() > 0 && !parser_->is_done())
    buffer_.consume(parser_->put(buffer_.data(), code));
  if (code != http::error::need_more) return code;
  // What the parser leaves is part of a header or of a chunk's head.
  return buffer_.size() < kMaxHeaderBytes ? error_code() : http::error::header_limit;
}

void HttpClient::handle_read(error_code code) {
  has_answered_ = has_answered_ || buffer_.size() > 0;
  code = parse(code);
  if (parser_->is_header_done() && head_.status == 0) {
    head_.status = parser_->get().result_int();
    const auto type = parser_->get()[http::field::content_type];
    head_.content_type.assign(type.data(), type.size());
  }
  if (head_.status != 0 && !stopped_as_) {
    std::string& body = parser_->get().body();
    if (!body.empty()) {
      const BodyWish wish = on_bytes_(head_, body);
      body.clear();
      switch (wish) {
        case BodyWish::kMore:
          break;
        case BodyWish::kEnough:
          if (!std::exchange(has_enough_, true)) set_deadline(kFramingTimeout);
          break;
        case BodyWish::kAbandon:
          close();
          return finish(HttpEnd::kAbandoned, "");
      }
    }
  }
  if (code && has_enough_) {
    close();
    return finish(HttpEnd::kDone, "");
  }
  if (code) return fail(code, HttpEnd::kBroken, "receive");
  if (!parser_->is_done()) return read();
  if (!parser_->keep_alive() || buffer_.size() > 0 || !write_error_.empty()) close();
  finish(HttpEnd::kDone, "");
}

void HttpClient::fail(error_code code, HttpEnd end, const std::string& what) {
  close();
  if (stopped_as_) return finish(*stopped_as_, stop_reason_);
  if (is_reused_ && !has_answered_) return connect();
  finish(end, write_error_.empty() ? what + ": " + code.message() : write_error_);
}

void HttpClient::finish(HttpEnd end, const std::string& reason) {
  deadline_.cancel();
  is_busy_ = false;
  const OnEnd on_end = std::exchange(on_end_, nullptr);
  const HttpHead head = std::move(head_);
  on_bytes_ = nullptr;
  on_end(end, head, reason);
}

void HttpClient::close() {
  error_code ignored;  // it is gone either way
  socket_.close(ignored);
}

Result<HttpReply> http_get(const HttpTarget& target, const std::string& path,
                           std::chrono::milliseconds timeout) {
  asio::io_context io(1);
  HttpClient client(io, target);
  HttpReply reply;
  Status status;
  const auto on_bytes = [&](const HttpHead&, std::string_view bytes) {
    reply.body += bytes;
    return reply.body.size() <= kMaxReplyBytes ? BodyWish::kMore : BodyWish::kAbandon;
  };
  const auto on_end = [&](HttpEnd end, const HttpHead& head, const std::string& reason) {
    reply.status = head.status;
    const std::string message = "GET " + path + ": " + reason;
    switch (end) {
      case HttpEnd::kDone:
      case HttpEnd::kAbandoned:
        break;
      case HttpEnd::kNoConnection:
        status = unavailable(message);
        break;
      case HttpEnd::kTimeout:
        status = Error{ErrorCode::kDeadlineExceeded, message};
        break;
      case HttpEnd::kBroken:
      case HttpEnd::kCancelled:
        status = io_error(message);
        break;
    }
  };
  client.start(make_http_request(target, "GET", path, ""), timeout, on_bytes, on_end);
  io.run();
  PHALANX_RETURN_IF_ERROR(status);
  return reply;
}

}  // namespace phalanx::bench
