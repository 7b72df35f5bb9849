// Ctrl-C during a benchmark: long steps ask, clean up and end. Installed by llm-bench's main.
#pragma once

#include <exception>

namespace phalanx::bench {

/// SIGINT, SIGTERM and SIGHUP set a flag; a second one ends the process at once.
void catch_stop_signals();

/// The signal that came, or 0.
int stop_signal();

/// Thrown by what was asked to stop, once it has tidied up.
struct Stopped : std::exception {
  const char* what() const noexcept override { return "stopped"; }
};

/// Throws Stopped when a signal has come.
void check_stop();

}  // namespace phalanx::bench
