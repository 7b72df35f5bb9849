// Builds an engine directory from a checkpoint: config, binding, formats, graph, passes, weights,
// manifest. Called by llm-build and by tests.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/builder/passes/pass.h"
#include "runtime/builder/quantization_plan.h"
#include "runtime/builder/weight_writer.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::builder {

struct BuildOptions {
  std::string checkpoint;  ///< directory
  std::string engine;      ///< directory to make
  QuantizationRequest quantization;
  PassOptions passes;             ///< its dump_directory must exist
  std::string architecture_file;  ///< empty: the built-in one for model_type
  std::string name;               ///< empty: last component of the checkpoint's path
  std::vector<std::string> ignored_config_keys;
  int num_threads = 1;
  bool force = false;  ///< replace an engine that is there
  Progress progress;   ///< may be empty
};

struct BuildReport {
  engine::EngineManifest manifest;
  std::vector<PassReport> passes;
  std::string lanes_reason;  ///< why not more lanes; empty at the maximum
  double seconds = 0;
  int64_t checkpoint_bytes = 0;
  int64_t engine_bytes = 0;
};

/// On success the engine is at options.engine, complete; on failure nothing is there that was not
/// before, unless only the last rename failed (EngineDirectory::publish). Same input, same bytes:
/// no clock, no path, no thread count goes into the engine. Errors: those of the steps, naming
/// file, field or tensor.
Result<BuildReport> build_engine(const BuildOptions& options);

}  // namespace phalanx::builder
