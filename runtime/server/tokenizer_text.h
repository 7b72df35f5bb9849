// The text side of an engine directory: its tokenizer, its chat template and its special tokens as
// one TextCodec. Made by the launcher; used by openai_api and the offline client.
#pragma once

#include <memory>
#include <string>

#include "runtime/base/result.h"
#include "runtime/server/text_codec.h"

namespace phalanx {

/// Reads tokenizer.json (required), tokenizer_config.json (bos_token, eos_token) and
/// chat_template.jinja of `directory`. Without a template encode_chat answers kUnsupported. Errors:
/// those of Tokenizer::load and ChatTemplate::parse; kDataLoss for a tokenizer_config.json that is
/// not a JSON object.
Result<std::shared_ptr<const TextCodec>> load_tokenizer_text(const std::string& directory);

}  // namespace phalanx
