// Framing of the monitor's messages: kind, length, text. Called by the monitor thread.
#include "parallel/monitor_link.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace phalanx::parallel {
namespace {

struct Head {
  uint8_t kind;
  uint8_t zero;
  uint16_t num_bytes;
};
constexpr size_t kMaxTextBytes = 4096;

}  // namespace

void MonitorLink::send(MonitorMessage kind, std::string_view text) {
  if (!is_open()) return;
  text = text.substr(0, kMaxTextBytes);
  const Head head{static_cast<uint8_t>(kind), 0, static_cast<uint16_t>(text.size())};
  unsent_.append(reinterpret_cast<const char*>(&head), sizeof(head)).append(text);
  flush();
}

void MonitorLink::flush() {
  while (is_open() && !unsent_.empty()) {
    const ssize_t count =
        ::send(socket_.descriptor(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count <= 0) return;  // full, or broken: receive() will tell
    unsent_.erase(0, static_cast<size_t>(count));
  }
}

bool MonitorLink::receive(const std::function<void(MonitorMessage, std::string_view)>& handle) {
  bool is_closed = false;
  while (true) {
    char chunk[4096];
    const ssize_t count = recv(socket_.descriptor(), chunk, sizeof(chunk), MSG_DONTWAIT);
    if (count > 0) {
      received_.append(chunk, static_cast<size_t>(count));
      continue;
    }
    is_closed = count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
    break;
  }
  // What came before the end still counts: an abort's text, above all.
  Head head{};
  while (received_.size() >= sizeof(head)) {
    std::memcpy(&head, received_.data(), sizeof(head));
    if (head.kind > static_cast<uint8_t>(MonitorMessage::kFinishAgreed) ||
        head.num_bytes > kMaxTextBytes) {
      is_closed = true;
      break;
    }
    if (received_.size() < sizeof(head) + head.num_bytes) break;
    const std::string text = received_.substr(sizeof(head), head.num_bytes);
    received_.erase(0, sizeof(head) + head.num_bytes);
    handle(static_cast<MonitorMessage>(head.kind), text);
  }
  if (is_closed) socket_.close();
  return !is_closed;
}

}  // namespace phalanx::parallel
