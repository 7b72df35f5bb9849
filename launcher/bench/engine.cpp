// llm-bench engine: makes an engine of a real model's shape with random weights.
#include <cstdio>
#include <thread>

#include "launcher/bench/commands.h"
#include "launcher/bench/shape_engine.h"
#include "runtime/builder/quantization_plan.h"

namespace phalanx::bench {
namespace {

std::vector<Flag> flags() {
  std::string names;
  for (const std::string& name : model_shape_names()) names += (names.empty() ? "" : "|") + name;
  return {{"--shape", "NAME", "llama-3.2-1b", names},
          {"--weights", "FORMAT", "w8", "f32, bf16, w8 or w4"},
          {"--group-size", "N", "128", "quantization group, a power of two"},
          {"--engines", "DIR", default_engine_directory(), "where engines are kept"}};
}

Status run(const BenchOptions& options, Report& report) {
  ShapeEngineRequest request;
  PHALANX_ASSIGN_OR_RETURN(request.shape, options.one_of("--shape", model_shape_names()));
  PHALANX_ASSIGN_OR_RETURN(request.weights,
                           options.one_of("--weights", {"f32", "bf16", "w8", "w4"}));
  PHALANX_ASSIGN_OR_RETURN(
      request.group_size,
      options.integer("--group-size", builder::kMinGroupSize, builder::kMaxGroupSize));
  request.directory = options.text("--engines");
  request.num_threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  request.shows_progress = true;
  PHALANX_ASSIGN_OR_RETURN(const std::string path, ensure_shape_engine(request));
  report.set_fact("engine", path);
  std::printf("%s\n", path.c_str());
  return {};
}

}  // namespace

Command engine_command() {
  return {"engine", "makes an engine of a real shape with random weights and prints its path",
          "",       0,
          flags,    run};
}

}  // namespace phalanx::bench
