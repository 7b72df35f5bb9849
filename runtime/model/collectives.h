// Turns the topology-free graph into the one that a tensor-parallel rank runs. Called by the
// executor when tp_size > 1.
#pragma once

#include "runtime/model/engine.pb.h"

namespace phalanx::model {

/// `graph` with an ALL_REDUCE in place right after each op that makes a partial value; its readers
/// read the reduced one, "<value>.reduced". Logits stay cut by VOCAB: gathering them is the
/// sampler's affair. The result passes verify_graph.
engine::Graph with_collectives(const engine::Graph& graph);

}  // namespace phalanx::model
