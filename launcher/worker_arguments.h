// llm-worker's command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace phalanx::launcher {

struct WorkerArguments {
  std::string config_path;
  std::vector<std::string> overrides;  ///< "field=value", in order
  bool plan = false;                   ///< print the memory ledger and exit
  bool help = false;
  bool version = false;
  std::optional<std::string> prompt;  ///< complete this and exit, without HTTP
  std::optional<std::string> chat;    ///< answer this user message and exit, without HTTP
  int64_t max_tokens = 128;
  float temperature = 0.0F;
  bool digest = false;       ///< print a digest of each token's logits (with --prompt)
  bool serve_after = false;  ///< with --prompt or --chat: go on serving afterwards
};

/// Errors: kInvalidArgument naming the flag, the value and what is allowed.
Result<WorkerArguments> parse_worker_arguments(const std::vector<std::string>& arguments);

/// The --help text.
std::string worker_usage();

}  // namespace phalanx::launcher
