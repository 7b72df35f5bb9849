// Deliberately not Beast's parser: the server's framing is checked by other code than wrote it.
#include "tests/support/http_test_client.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>

namespace phalanx::testing {
namespace {

using boost::asio::ip::tcp;

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

}  // namespace

std::string ClientResponse::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return "";
}

HttpTestClient::HttpTestClient(uint16_t port, std::chrono::milliseconds timeout,
                               int receive_buffer_bytes) {
  socket_.open(tcp::v4());
  if (receive_buffer_bytes > 0)
    socket_.set_option(boost::asio::socket_base::receive_buffer_size(receive_buffer_bytes));
  socket_.connect({boost::asio::ip::address_v4::loopback(), port});
  timeval limit{};
  limit.tv_sec = timeout.count() / 1000;
  limit.tv_usec = (timeout.count() % 1000) * 1000;
  ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

ClientResponse HttpTestClient::request(
    const std::string& method, const std::string& target, const std::string& body,
    const std::vector<std::pair<std::string, std::string>>& headers) {
  std::string text = method + " " + target + " HTTP/1.1\r\nHost: test\r\n";
  for (const auto& [name, value] : headers) text += name + ": " + value + "\r\n";
  if (!body.empty()) text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  send_raw(text + "\r\n" + body);
  return read_response(method == "HEAD");
}

bool HttpTestClient::send_raw(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket_.native_handle(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool HttpTestClient::fill() {
  char bytes[16384];
  const ssize_t received = ::recv(socket_.native_handle(), bytes, sizeof(bytes), 0);
  if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
    throw std::runtime_error("the server sent nothing in time");
  if (received <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(received));
  return true;
}

std::string HttpTestClient::read_line() {
  size_t end = 0;
  while ((end = buffer_.find("\r\n")) == std::string::npos) {
    if (!fill()) throw std::runtime_error("the server closed within a line: \"" + buffer_ + "\"");
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return line;
}

ClientResponse HttpTestClient::read_head() {
  ClientResponse response;
  do {
    const std::string status_line = read_line();
    if (status_line.compare(0, 9, "HTTP/1.1 ") != 0)
      throw std::runtime_error("not a status line: " + status_line);
    response.status = std::stoi(status_line.substr(9, 3));
    response.headers.clear();
    for (std::string line = read_line(); !line.empty(); line = read_line()) {
      const size_t colon = line.find(": ");
      if (colon == std::string::npos) throw std::runtime_error("not a header: " + line);
      response.headers.emplace_back(lower(line.substr(0, colon)), line.substr(colon + 2));
    }
  } while (response.status == 100);
  return response;
}

std::optional<std::string> HttpTestClient::read_chunk() {
  std::string line = read_line();
  const size_t size = std::stoul(line, nullptr, 16);
  while (buffer_.size() < size + 2) {
    if (!fill()) throw std::runtime_error("the server closed within a chunk");
  }
  std::string chunk = buffer_.substr(0, size);
  if (buffer_.compare(size, 2, "\r\n") != 0) throw std::runtime_error("a chunk without its end");
  buffer_.erase(0, size + 2);
  if (size == 0) return std::nullopt;
  return chunk;
}

ClientResponse HttpTestClient::read_response(bool head_only) {
  ClientResponse response = read_head();
  const std::string length = response.header("content-length");
  if (head_only || response.status == 204) {
    response.complete = true;
  } else if (response.header("transfer-encoding") == "chunked") {
    while (auto chunk = read_chunk()) response.body += *chunk;
    response.complete = true;
  } else if (!length.empty()) {
    const size_t size = std::stoul(length);
    while (buffer_.size() < size) {
      if (!fill()) throw std::runtime_error("the server closed within a body");
    }
    response.body = buffer_.substr(0, size);
    buffer_.erase(0, size);
    response.complete = true;
  } else {
    while (fill()) {
    }
    response.body = std::exchange(buffer_, {});
    response.complete = true;
  }
  return response;
}

std::optional<std::string> HttpTestClient::read_event() {
  size_t end = 0;
  while ((end = events_.find("\n\n")) == std::string::npos) {
    auto chunk = read_chunk();
    if (!chunk) return std::nullopt;
    events_ += *chunk;
  }
  const std::string event = events_.substr(0, end + 1);
  events_.erase(0, end + 2);
  std::string data;
  for (size_t begin = 0; begin < event.size();) {
    const size_t line_end = event.find('\n', begin);
    const std::string line = event.substr(begin, line_end - begin);
    if (line.compare(0, 6, "data: ") == 0) data += line.substr(6);
    begin = line_end + 1;
  }
  return data;
}

bool HttpTestClient::wait_for_close() {
  try {
    while (fill()) {
    }
    return true;
  } catch (const std::runtime_error&) {
    return false;
  }
}

void HttpTestClient::close() { socket_.close(); }

void HttpTestClient::reset() {
  socket_.set_option(boost::asio::socket_base::linger(true, 0));
  socket_.close();
}

void HttpTestClient::shutdown_send() { socket_.shutdown(tcp::socket::shutdown_send); }

ClientResponse http_request(uint16_t port, const std::string& method, const std::string& target,
                            const std::string& body) {
  HttpTestClient client(port);
  return client.request(method, target, body);
}

std::vector<std::string> http_events(uint16_t port, const std::string& method,
                                     const std::string& target, const std::string& body) {
  HttpTestClient client(port);
  std::string text = method + " " + target + " HTTP/1.1\r\nHost: test\r\n";
  if (!body.empty()) text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  client.send_raw(text + "\r\n" + body);
  const ClientResponse head = client.read_head();
  if (head.status != 200 || head.header("content-type").find("text/event-stream") != 0)
    throw std::runtime_error("not an event stream: status " + std::to_string(head.status));
  std::vector<std::string> events;
  while (auto event = client.read_event()) {
    if (!event->empty()) events.push_back(*event);
  }
  return events;
}

}  // namespace phalanx::testing
