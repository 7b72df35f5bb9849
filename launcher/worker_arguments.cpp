// Parses llm-worker's few flags; everything else is configuration.
#include "launcher/worker_arguments.h"

#include <charconv>
#include <cmath>
#include <cstdlib>

namespace phalanx::launcher {
namespace {

Result<int64_t> parse_integer(const std::string& flag, const std::string& text, int64_t low,
                              int64_t high) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    return invalid_argument(flag + " \"" + text + "\": allowed " + std::to_string(low) + ".." +
                            std::to_string(high));
  }
  return value;
}

Result<float> parse_temperature(const std::string& text) {
  char* end = nullptr;
  const float value = std::strtof(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value >= 0.0F && value <= 100.0F)) {
    return invalid_argument("--temperature \"" + text + "\": allowed 0..100");
  }
  return value;
}

}  // namespace

Result<WorkerArguments> parse_worker_arguments(const std::vector<std::string>& arguments) {
  WorkerArguments parsed;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string flag = arguments[i];
    std::optional<std::string> attached;
    if (const auto equals = flag.find('='); flag.starts_with("--") && equals != std::string::npos) {
      attached = flag.substr(equals + 1);
      flag.resize(equals);
    }
    const bool takes_value = flag == "--config" || flag == "--set" || flag == "--prompt" ||
                             flag == "--chat" || flag == "--max-tokens" || flag == "--temperature";
    std::string value;
    if (takes_value) {
      if (attached) {
        value = *attached;
      } else if (i + 1 < arguments.size()) {
        value = arguments[++i];
      } else {
        return invalid_argument(flag + ": needs a value");
      }
    } else if (attached) {
      return invalid_argument(flag + ": takes no value, got \"" + *attached + "\"");
    }
    if (flag == "--config") {
      parsed.config_path = value;
    } else if (flag == "--set") {
      parsed.overrides.push_back(value);
    } else if (flag == "--prompt") {
      parsed.prompt = value;
    } else if (flag == "--chat") {
      parsed.chat = value;
    } else if (flag == "--max-tokens") {
      PHALANX_ASSIGN_OR_RETURN(parsed.max_tokens, parse_integer(flag, value, 1, 1 << 20));
    } else if (flag == "--temperature") {
      PHALANX_ASSIGN_OR_RETURN(parsed.temperature, parse_temperature(value));
    } else if (flag == "--plan") {
      parsed.plan = true;
    } else if (flag == "--digest") {
      parsed.digest = true;
    } else if (flag == "--serve") {
      parsed.serve_after = true;
    } else if (flag == "--help" || flag == "-h") {
      parsed.help = true;
    } else if (flag == "--version") {
      parsed.version = true;
    } else {
      return invalid_argument("unknown argument \"" + arguments[i] + "\"; see llm-worker --help");
    }
  }
  if (parsed.prompt && parsed.chat)
    return invalid_argument("--prompt and --chat: give one of them");
  if (parsed.serve_after && !parsed.prompt && !parsed.chat) {
    return invalid_argument("--serve: only with --prompt or --chat; without them it always serves");
  }
  if (!parsed.help && !parsed.version && parsed.config_path.empty() && parsed.overrides.empty()) {
    return invalid_argument(
        "--config FILE is missing (or --set engine=DIRECTORY, for defaults otherwise); "
        "see llm-worker --help");
  }
  return parsed;
}

std::string worker_usage() {
  return R"(llm-worker: serves a language model from the ranks that MPI starts.

  mpirun -np N llm-worker --config FILE [--set field=value]...      serve over HTTP
  mpirun -np N llm-worker --config FILE --prompt TEXT               complete a text and exit
  mpirun -np N llm-worker --config FILE --chat TEXT                 answer a message and exit
  llm-worker --config FILE --plan                                   print each rank's memory

  --config FILE       protobuf text, see launcher/config.proto for every field
  --set FIELD=VALUE   override a field, e.g. --set parallel.tp_size=2 --set server.port=9000
  --plan              print the memory ledger of every rank and exit; needs no mpirun
  --prompt TEXT       print a completion of TEXT on standard output
  --chat TEXT         the same, with TEXT as a user's message in the model's chat format
  --max-tokens N      tokens of that completion at most (128)
  --temperature T     of that completion (0: greedy)
  --digest            print each token's id and a digest of its logits' bits instead of text
  --serve             with --prompt or --chat: serve over HTTP afterwards
  --version, --help

N is parallel.tp_size * parallel.pp_size. Exit status: 0 done or drained, 1 the job failed,
2 wrong arguments, configuration or files.
)";
}

}  // namespace phalanx::launcher
