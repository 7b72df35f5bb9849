// The list of llm-bench's commands.
#include "launcher/bench/commands.h"

namespace phalanx::bench {

const std::vector<Command>& commands() {
  static const std::vector<Command> kCommands = {
      limits_command(), kernels_command(),     model_command(),
      engine_command(), collectives_command(), serve_command(),
      tune_command(),   compare_command(),     cuda_command(),
  };
  return kCommands;
}

}  // namespace phalanx::bench
