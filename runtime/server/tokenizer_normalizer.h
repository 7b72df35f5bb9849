// The `normalizer` of a tokenizer file: text in, text out, before it is split.
// Called by Tokenizer while loading and encoding.
#pragma once

#include <memory>
#include <string>

#include "runtime/base/result.h"
#include "runtime/server/tokenizer_json.h"

namespace phalanx {

/// One normalizer or a sequence of them. Immutable, thread safe.
class TokenizerNormalizer {
 public:
  virtual ~TokenizerNormalizer() = default;
  /// Rewrites well-formed UTF-8 in place. Errors: kResourceExhausted (a regular expression's
  /// limit).
  virtual Status apply(std::string& text) const = 0;
};

/// The normalizer that `field` describes; nullptr when it is null.
/// Errors: kUnsupported naming an unknown type, kInvalidArgument naming a bad field.
Result<std::shared_ptr<const TokenizerNormalizer>> parse_normalizer(const JsonField& field);

}  // namespace phalanx
