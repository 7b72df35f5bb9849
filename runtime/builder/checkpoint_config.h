// config.json and generation_config.json of a checkpoint, read into a ModelConfig. Called by
// engine_builder.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "runtime/base/result.h"
#include "runtime/builder/fp8_config.h"
#include "runtime/model/architecture.pb.h"

namespace phalanx::builder {

struct CheckpointConfig {
  engine::ModelConfig model;             ///< without name
  std::map<std::string, bool> switches;  ///< every switch of the architecture
  bool tie_is_stated = false;            ///< config.json says tie_word_embeddings
  std::optional<Fp8Config> fp8;          ///< quantization_config, of an fp8 checkpoint
  std::vector<std::string> notes;        ///< what was decided, for provenance
};

/// The model_type in a parsed config.json. Errors: kInvalidArgument when it is missing.
Result<std::string> model_type_of(const nlohmann::json& config);

/// Reads `config` (config.json) as `architecture` understands it; `generation` is
/// generation_config.json or null: the eos_token_id and bos_token_id it names win over
/// config.json's. Both dialects are read: rope_theta and rope_scaling (transformers 4),
/// rope_parameters (transformers 5). A key that neither the reader nor the architecture knows is an
/// error unless it is null, false or empty, or listed in ignored_keys: it may change what is
/// computed. A key that is read cannot be ignored. Errors: kInvalidArgument naming key, value and
/// what is allowed; kUnsupported for what is well formed but not computed here (activation,
/// head_dim, is_causal, rope type, quantization_config other than fp8, mixed windows).
Result<CheckpointConfig> read_checkpoint_config(const nlohmann::json& config,
                                                const nlohmann::json& generation,
                                                const engine::Architecture& architecture,
                                                const std::vector<std::string>& ignored_keys);

}  // namespace phalanx::builder
