// One write(2) per line, so that lines of several ranks on one terminal do not interleave.
#include "runtime/base/log.h"

#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <ctime>

namespace phalanx {
namespace {

std::atomic<LogLevel> current_level{LogLevel::kInfo};

std::string& tag() {
  static std::string text;
  return text;
}

}  // namespace

void set_log_level(LogLevel level) { current_level = level; }
LogLevel log_level() { return current_level.load(std::memory_order_relaxed); }
void set_log_tag(std::string text) { tag() = std::move(text); }

void log_line(LogLevel level, std::string_view message) {
  timeval now{};
  gettimeofday(&now, nullptr);
  tm local{};
  localtime_r(&now.tv_sec, &local);
  char head[48];
  std::snprintf(head, sizeof(head), "%02d:%02d:%02d.%03d %c ", local.tm_hour, local.tm_min,
                local.tm_sec, static_cast<int>(now.tv_usec / 1000),
                "DIWE"[static_cast<int>(level)]);
  std::string line = head;
  if (!tag().empty()) line.append(tag()).append(" | ");
  line.append(message).push_back('\n');
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace phalanx
