// The rotary position fields of config.json, in both dialects. Called by checkpoint_config.
#pragma once

#include <nlohmann/json.hpp>

#include "runtime/base/result.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::builder {

/// As found in config.json, null where absent.
struct RopeFields {
  nlohmann::json parameters;  ///< rope_parameters (transformers 5)
  nlohmann::json scaling;     ///< rope_scaling (transformers 4)
  nlohmann::json theta;       ///< rope_theta
  nlohmann::json partial_rotary_factor;
  nlohmann::json original_max_position_embeddings;  ///< beside the scaling, in some checkpoints
};

/// Types default, linear and llama3. `model` has head_dim and max_position_embeddings. Errors:
/// kUnsupported naming another type or a partial rotation; kInvalidArgument for missing, unknown or
/// senseless parameters. Source: transformers modeling_rope_utils.py.
Result<engine::Rope> read_rope(const RopeFields& fields, const engine::ModelConfig& model);

}  // namespace phalanx::builder
