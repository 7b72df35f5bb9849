// The list of llm-bench's commands.
#include "launcher/bench/commands.h"

namespace phalanx::bench {

const std::vector<Command>& commands() {
  static const std::vector<Command> kCommands = {
      model_command(),
      engine_command(),
      collectives_command(),
      compare_command(),
  };
  return kCommands;
}

}  // namespace phalanx::bench
