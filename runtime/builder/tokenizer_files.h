// What the engine keeps of a checkpoint's tokenizer and chat template. Called by engine_builder.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/builder/engine_directory.h"

namespace phalanx::builder {

/// Copies tokenizer.json, tokenizer_config.json and generation_config.json where they exist, and
/// writes chat_template.jinja from the file of that name, from tokenizer_config.json's
/// chat_template (a string, or a list of which "default" is taken) or from chat_template.json.
/// Returns notes on what is missing. Errors: kDataLoss for JSON that does not parse, kIoError.
Result<std::vector<std::string>> copy_tokenizer_files(const std::string& checkpoint,
                                                      const EngineDirectory& engine);

}  // namespace phalanx::builder
