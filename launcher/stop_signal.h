// Ctrl-C during a build or a benchmark: long steps ask, clean up and end. Installed by the mains of
// llm-build and llm-bench.
#pragma once

#include <exception>

namespace phalanx {

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

}  // namespace phalanx
