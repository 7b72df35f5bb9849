// What each rank of a topology owns of an engine's weights. Called by llm_build_inspect.
#pragma once

#include <ostream>

#include "runtime/model/engine.pb.h"

namespace phalanx::launcher {

/// Two tables with one line a rank: what of the engine it reads (layers, query heads, KV heads,
/// vocabulary rows, bytes of the engine's files), and the memory ledger of a worker with default
/// settings and a KV cache of one full context. The topology must pass check_topology.
void print_shards(const engine::EngineManifest& manifest, int tp_size, int pp_size,
                  std::ostream& out);

}  // namespace phalanx::launcher
