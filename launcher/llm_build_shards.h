// What each rank of a topology owns of an engine's weights. Called by llm_build_inspect.
#pragma once

#include <ostream>

#include "runtime/model/engine.pb.h"

namespace phalanx::launcher {

/// A table with one line a rank: layers, query heads, KV heads, vocabulary rows, and bytes of the
/// engine file it reads. The topology must pass check_topology.
void print_shards(const engine::EngineManifest& manifest, int tp_size, int pp_size,
                  std::ostream& out);

}  // namespace phalanx::launcher
