// llm-build's command line. Called by llm_build.cpp and its tests.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/builder/engine_builder.h"

namespace phalanx::launcher {

struct InspectOptions {
  std::string engine;
  bool show_graph = false;
  bool show_weights = false;
  bool verify = false;
  int tp_size = 0;  ///< 0: no topology was given
  int pp_size = 0;
};

struct HelpRequest {};

using LlmBuildCommand = std::variant<HelpRequest, builder::BuildOptions, InspectOptions>;

/// Parses what follows the program's name. Errors: kInvalidArgument naming the flag, its value and
/// what is allowed.
Result<LlmBuildCommand> parse_llm_build(const std::vector<std::string>& arguments);

/// The --help text, with the passes and families of this binary.
std::string llm_build_help();

}  // namespace phalanx::launcher
