// The commands of llm-bench, one source file each. Called by llm_bench's main.
#pragma once

#include <string>
#include <vector>

#include "launcher/bench/bench_options.h"
#include "launcher/bench/report.h"
#include "runtime/base/result.h"

namespace phalanx::bench {

/// A command: what it is called, what it knows, what it does.
struct Command {
  const char* name;     ///< "limits"
  const char* summary;  ///< one line for the list of commands
  const char* places;   ///< plain arguments for the usage line, or ""
  size_t max_places;
  /// Every command also takes --json FILE, which main adds.
  std::vector<Flag> (*flags)();
  /// Measures into `report`. Errors: a wrong flag value (kInvalidArgument: exit 2) or what went
  /// wrong (exit 1). Throws what the measured code throws.
  Status (*run)(const BenchOptions& options, Report& report);
};

Command limits_command();       ///< limits.cpp
Command kernels_command();      ///< kernels.cpp
Command engine_command();       ///< engine.cpp
Command model_command();        ///< model.cpp
Command collectives_command();  ///< collectives.cpp
Command serve_command();        ///< serve.cpp
Command tune_command();         ///< tune.cpp
Command compare_command();      ///< compare.cpp
Command cuda_command();         ///< cuda.cpp

/// In the order of the help text.
const std::vector<Command>& commands();

}  // namespace phalanx::bench
