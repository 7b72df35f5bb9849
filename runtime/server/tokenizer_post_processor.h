// The `post_processor` of a tokenizer file: which special tokens go around an encoded text.
// Called by Tokenizer while loading and encoding.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/server/tokenizer_json.h"

namespace phalanx {

/// TemplateProcessing, or nothing. ByteLevel concerns offsets only. Immutable, thread safe.
class TokenizerPostProcessor {
 public:
  /// Errors: kUnsupported naming an unknown type, kInvalidArgument naming a bad field or an id that
  /// is not below `num_ids`.
  static Result<TokenizerPostProcessor> parse(const JsonField& field, int64_t num_ids);

  /// The template applied to `ids`; without `add_special_tokens` only its sequence.
  std::vector<int32_t> apply(std::vector<int32_t> ids, bool add_special_tokens) const;

 private:
  struct Part {
    bool is_sequence = false;
    std::vector<int32_t> ids;  // of a special token
  };
  using Template = std::vector<Part>;
  static Result<Template> parse_template(const JsonField& field, int64_t num_ids);

  std::vector<Template> templates_;  // applied in order
};

}  // namespace phalanx
