// The `pattern` field of tokenizer components: {"String": ...} or {"Regex": ...}, as one matcher.
// Called by the tokenizer's normalizers, pre-tokenizers and decoders.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/server/tokenizer_json.h"
#include "runtime/server/tokenizer_regex.h"

namespace phalanx {

/// A literal or an expression. Immutable, thread safe.
class TokenizerPattern {
 public:
  static Result<TokenizerPattern> parse(const JsonField& field);
  static Result<TokenizerPattern> regex(std::string_view expression);
  static TokenizerPattern literal(std::string text);

  /// The literal, when it is one.
  const std::optional<std::string>& literal_text() const { return literal_; }

  /// Calls visit(begin, end) for every non-overlapping match of `text`, left to right.
  template <typename Visit>
  Status for_each_match(std::string_view text, Visit&& visit) const {
    if (regex_) {
      TokenizerRegex::Cursor cursor(*regex_, text);
      TokenizerRegex::Match match;
      while (true) {
        PHALANX_ASSIGN_OR_RETURN(const bool found, cursor.next(match));
        if (!found) return {};
        visit(match.begin, match.end);
      }
    }
    size_t from = 0;
    while (true) {
      const size_t found = text.find(*literal_, from);
      if (found == std::string_view::npos) return {};
      visit(found, found + literal_->size());
      from = found + literal_->size();
    }
  }

  /// `text` with every match replaced by `content` (taken literally).
  Result<std::string> replace_all(std::string_view text, std::string_view content) const;

 private:
  TokenizerPattern() = default;
  std::optional<TokenizerRegex> regex_;
  std::optional<std::string> literal_;  // not empty
};

}  // namespace phalanx
