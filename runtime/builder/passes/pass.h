// What a graph pass is, and the ordered list of them. A pass rewrites the graph without changing
// any bit of what it computes. Called by engine_builder.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::builder {

/// What a pass may read and change.
struct PassContext {
  engine::Graph& graph;
  const std::vector<engine::Weight>& weights;  ///< formats and groups are planned
  const engine::ModelConfig& config;
  int num_rewrites = 0;  ///< counted by the pass, reported to the user
};

struct Pass {
  const char* name;         ///< for --disable-pass and the engine's provenance
  const char* description;  ///< one line for --help
  Status (*run)(PassContext& context);
};

/// All passes in the order they run.
std::span<const Pass> registered_passes();

struct PassOptions {
  std::vector<std::string> disabled;  ///< names; an unknown one is an error
  std::string dump_directory;         ///< empty: none; else NN-name.before.txt and .after.txt
};

struct PassReport {
  std::string name;
  bool ran = false;
  int num_rewrites = 0;
  double seconds = 0;
};

/// Runs every pass that is not disabled: dump, run, time, verify, dump. Errors: kInvalidArgument
/// for an unknown name in `disabled`; kIoError of a dump; InternalError when a pass leaves a graph
/// that verify_graph refuses.
Result<std::vector<PassReport>> run_passes(const PassOptions& options, PassContext& context);

Status fuse_qkv(PassContext& context);
Status fuse_gate_up(PassContext& context);
Status fuse_add_norm(PassContext& context);

}  // namespace phalanx::builder
