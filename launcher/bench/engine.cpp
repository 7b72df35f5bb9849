// llm-bench engine: makes an engine of a real model's shape with random weights.
#include <cstdio>

#include "launcher/bench/commands.h"
#include "launcher/bench/shape_engine.h"

namespace phalanx::bench {
namespace {

Status run(const BenchOptions& options, Report& report) {
  PHALANX_ASSIGN_OR_RETURN(const ShapeEngineRequest request, read_shape_request(options));
  PHALANX_ASSIGN_OR_RETURN(const std::string path, ensure_shape_engine(request));
  report.set_fact("engine", path);
  std::printf("%s\n", path.c_str());
  return {};
}

}  // namespace

Command engine_command() {
  return {"engine",    "makes an engine of a real shape with random weights and prints its path",
          "",          0,
          shape_flags, run};
}

}  // namespace phalanx::bench
