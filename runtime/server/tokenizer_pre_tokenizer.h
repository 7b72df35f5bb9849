// The `pre_tokenizer` of a tokenizer file: cuts normalized text into the words that BPE merges in.
// Called by Tokenizer while loading and encoding.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/server/tokenizer_json.h"

namespace phalanx {

/// A stretch of text on its way to the model. The bytes live in the input or in a TextArena.
struct TextPiece {
  std::string_view text;
  bool at_origin = false;  ///< it begins where the whole input begins (Metaspace "first")
};

/// Owns texts that a step rewrote, as long as pieces refer to them. One encode call's, one thread.
class TextArena {
 public:
  /// Room for `max_bytes`, until the next call; keep() says how many of them hold text.
  char* reserve(size_t max_bytes);
  std::string_view keep(size_t num_bytes);

 private:
  static constexpr size_t kBlockBytes = 64 * 1024;
  std::vector<std::unique_ptr<char[]>> blocks_;
  size_t used_ = 0;      // of the last block
  size_t capacity_ = 0;  // of the last block
};

/// One pre-tokenizer or a sequence of them. Immutable, thread safe.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Appends the parts of `piece` to `out`; none of them is empty.
  /// Errors: kResourceExhausted (a regular expression's limit).
  virtual Status split(const TextPiece& piece, TextArena& arena,
                       std::vector<TextPiece>& out) const = 0;
};

/// The pre-tokenizer that `field` describes; nullptr when it is null.
/// Errors: kUnsupported naming an unknown type, kInvalidArgument naming a bad field.
Result<std::shared_ptr<const PreTokenizer>> parse_pre_tokenizer(const JsonField& field);

}  // namespace phalanx
