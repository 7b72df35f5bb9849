// Writes a model's graph from its architecture's op templates. Called by engine_builder.
#pragma once

#include <vector>

#include "runtime/base/result.h"
#include "runtime/builder/checkpoint_config.h"
#include "runtime/builder/tensor_binding.h"
#include "runtime/model/architecture.pb.h"

namespace phalanx::builder {

/// The unfused graph: prologue, the layer once per layer, epilogue. Names local to a section become
/// "layers.N.name"; a name written again in the same layer becomes "layers.N.name.1" and so on.
/// Errors: kInvalidArgument naming the op, when the templates do not make a valid graph.
Result<engine::Graph> build_graph(const engine::Architecture& architecture,
                                  const CheckpointConfig& config, const TensorBinding& binding);

/// The weights of a binding, in its order.
std::vector<engine::Weight> weights_of(const TensorBinding& binding);

}  // namespace phalanx::builder
