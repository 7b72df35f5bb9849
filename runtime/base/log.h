// Leveled log lines on stderr: "12:34:56.789 I rank 3 | message". Any thread; one write per line.
#pragma once

#include <sstream>
#include <string>
#include <string_view>

namespace phalanx {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Lines below `level` are dropped. Called once at start-up, before threads exist.
void set_log_level(LogLevel level);
LogLevel log_level();

/// Puts "rank N" (or any short tag) into every line of this process.
void set_log_tag(std::string tag);

void log_line(LogLevel level, std::string_view message);

#define PHALANX_LOG(level, expression)                \
  do {                                                \
    if ((level) >= ::phalanx::log_level()) {          \
      std::ostringstream phalanx_log_;                \
      phalanx_log_ << expression;                     \
      ::phalanx::log_line(level, phalanx_log_.str()); \
    }                                                 \
  } while (false)

#define PHALANX_DEBUG(expression) PHALANX_LOG(::phalanx::LogLevel::kDebug, expression)
#define PHALANX_INFO(expression) PHALANX_LOG(::phalanx::LogLevel::kInfo, expression)
#define PHALANX_WARNING(expression) PHALANX_LOG(::phalanx::LogLevel::kWarning, expression)
#define PHALANX_ERROR(expression) PHALANX_LOG(::phalanx::LogLevel::kError, expression)

}  // namespace phalanx
