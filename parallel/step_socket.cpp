// Framed messages over nonblocking TCP sockets. Called by the step channel's ends.
#include "parallel/step_socket.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

using FrameLength = uint32_t;

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

int poll_milliseconds(std::chrono::nanoseconds slice) {
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(slice).count());
}

}  // namespace

StepSocketWriter::StepSocketWriter(std::vector<Socket> sockets, std::vector<std::string> readers) {
  PHALANX_CHECK_EQ(sockets.size(), readers.size(), "a name for each reader");
  for (size_t i = 0; i < sockets.size(); ++i)
    readers_.push_back({std::move(sockets[i]), std::move(readers[i]), 0});
}

bool StepSocketWriter::send_some(Reader& reader, std::span<const std::byte> frame) {
  while (reader.sent_bytes < frame.size()) {
    const auto rest = frame.subspan(reader.sent_bytes);
    const ssize_t count = send(reader.socket.descriptor(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (count < 0) {
      if (would_block(errno)) return false;
      throw DeviceError("publish: " + reader.name +
                        " is gone from the step channel: " + std::strerror(errno));
    }
    reader.sent_bytes += static_cast<size_t>(count);
  }
  return true;
}

void StepSocketWriter::publish(std::span<const std::byte> message, const WaitPolicy& policy) {
  if (readers_.empty()) return;
  const auto length = static_cast<FrameLength>(message.size());
  const auto head = std::as_bytes(std::span(&length, 1));
  std::vector<std::byte> frame(head.begin(), head.end());
  frame.insert(frame.end(), message.begin(), message.end());
  std::vector<Reader*> unfinished;
  for (Reader& reader : readers_) {
    reader.sent_bytes = 0;
    if (!send_some(reader, frame)) unfinished.push_back(&reader);
  }
  if (unfinished.empty()) return;
  const SlowWait slow(policy);
  while (!unfinished.empty()) {
    slow.check([&] {
      return "publish: waiting for " + unfinished.front()->name + " to read earlier steps";
    });
    std::vector<pollfd> entries;
    for (const Reader* reader : unfinished)
      entries.push_back({reader->socket.descriptor(), POLLOUT, 0});
    poll(entries.data(), entries.size(), poll_milliseconds(slow.slice()));
    std::erase_if(unfinished, [&](Reader* reader) { return send_some(*reader, frame); });
  }
}

StepSocketReader::StepSocketReader(Socket socket, std::string leader, size_t max_message_bytes)
    : socket_(std::move(socket)),
      leader_(std::move(leader)),
      max_message_bytes_(max_message_bytes) {}

bool StepSocketReader::has_message() const {
  FrameLength length = 0;
  if (received_.size() < sizeof(length)) return false;
  std::memcpy(&length, received_.data(), sizeof(length));
  PHALANX_CHECK_LE(length, max_message_bytes_, "a damaged length on the step channel");
  return received_.size() >= sizeof(length) + length;
}

/// Reads what the system has; returns whether anything came.
bool StepSocketReader::receive_some() {
  std::array<std::byte, 64 << 10> chunk;
  const ssize_t count = recv(socket_.descriptor(), chunk.data(), chunk.size(), 0);
  if (count > 0) {
    received_.insert(received_.end(), chunk.begin(), chunk.begin() + count);
    return true;
  }
  if (count < 0 && would_block(errno)) return false;
  throw DeviceError("waiting for the next step: the leader, " + leader_ + ", is gone" +
                    (count < 0 ? std::string(": ") + std::strerror(errno) : std::string()));
}

std::vector<std::byte> StepSocketReader::take_message() {
  FrameLength length = 0;
  std::memcpy(&length, received_.data(), sizeof(length));
  const auto begin = received_.begin() + sizeof(length);
  const auto end = begin + static_cast<ptrdiff_t>(length);
  std::vector<std::byte> message(begin, end);
  received_.erase(received_.begin(), end);
  return message;
}

std::optional<std::vector<std::byte>> StepSocketReader::next(const WaitPolicy& policy,
                                                             std::chrono::nanoseconds timeout) {
  const auto ready = [this] {
    while (!has_message())
      if (!receive_some()) return false;
    return true;
  };
  if (ready() || (policy.spin && timeout > kSpinTime && spin_until(ready))) return take_message();
  WaitPolicy limited = policy;
  limited.deadline = timeout;
  const SlowWait slow(limited);
  while (!slow.is_over()) {
    slow.check_abort([] { return std::string("waiting for the next step"); });
    pollfd entry{socket_.descriptor(), POLLIN, 0};
    poll(&entry, 1, poll_milliseconds(slow.slice()));
    if (ready()) return take_message();
  }
  return std::nullopt;
}

}  // namespace phalanx::parallel
