// What the API needs of text: prompts to tokens, tokens to text as they come. Implemented by
// tokenizer_text (the engine's tokenizer and chat template) and by a fake in HTTP tests.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/server/json_input.h"

namespace phalanx {

/// One answer's text. One thread at a time.
class TextStream {
 public:
  virtual ~TextStream() = default;

  struct Piece {
    std::string text;      ///< final text, well-formed UTF-8; may be empty (half a character, or
                           ///< what may become a stop string)
    bool stopped = false;  ///< a stop string is complete; it is not part of the text
  };
  virtual Piece push(int32_t token_id) = 0;

  /// What was held back, when no more tokens come. Once, and not after `stopped`.
  virtual Piece finish() = 0;
};

/// Any thread.
class TextCodec {
 public:
  virtual ~TextCodec() = default;

  /// Tokens of a completion's prompt, with what the tokenizer puts before a text (BOS). Errors:
  /// kInvalidArgument.
  virtual Result<std::vector<int32_t>> encode_prompt(std::string_view text) const = 0;

  /// Tokens of a chat that the assistant goes on with. `messages` and `tools` (null: none) are
  /// OpenAI's, checked, contents flattened to strings. Errors: kInvalidArgument (the template
  /// refuses the messages, or the text has more than max_bytes), kUnsupported (no template).
  virtual Result<std::vector<int32_t>> encode_chat(const RequestJson& messages,
                                                   const RequestJson& tools,
                                                   size_t max_bytes) const = 0;

  /// Text of tokens, special ones included, ill-formed bytes replaced.
  virtual std::string decode(std::span<const int32_t> token_ids) const = 0;

  /// The bytes of one token; may be part of a character; empty for an id without a token.
  virtual std::string token_bytes(int32_t token_id) const = 0;

  virtual std::unique_ptr<TextStream> start_stream(std::vector<std::string> stop) const = 0;
};

}  // namespace phalanx
