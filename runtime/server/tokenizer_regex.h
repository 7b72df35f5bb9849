// Regular expressions of tokenizer files: Oniguruma syntax on a PCRE2 engine, UTF-8, compiled.
// Called by the tokenizer's normalizers, pre-tokenizers and decoders.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace phalanx {

/// The PCRE2 pattern that matches what Oniguruma (Ruby-like syntax, Unicode) matches with
/// `pattern`: \s, \w, \b, \h, \v, \u, (?m) and {,n} are rewritten; what PCRE2 would read otherwise
/// (set operations, subexpression calls, callouts, \K, ...) is a kUnsupported error naming the
/// offset. Known differences: case folding of one character to several ((?i:ss) and U+1E9E), and
/// characters newer than PCRE2's Unicode tables.
Result<std::string> translate_oniguruma_pattern(std::string_view pattern);

/// A compiled expression. Immutable; any thread may match at the same time.
class TokenizerRegex {
 public:
  /// Errors: kUnsupported or kInvalidArgument with the offset in the pattern.
  static Result<TokenizerRegex> compile(std::string_view pattern);

  /// One non-empty or empty match, in bytes of the text.
  struct Match {
    size_t begin = 0;
    size_t end = 0;
  };

  /// Walks the non-overlapping matches of well-formed UTF-8 from left to right. An empty match
  /// right behind the previous match is skipped, as Oniguruma's iterator does.
  class Cursor {
   public:
    Cursor(const TokenizerRegex& regex, std::string_view text) : regex_(regex), text_(text) {}
    /// True when there was a further match. Errors: kResourceExhausted (the match limit).
    Result<bool> next(Match& match);

   private:
    const TokenizerRegex& regex_;
    std::string_view text_;
    size_t position_ = 0;
    size_t last_match_end_ = 0;
    bool matched_before_ = false;
  };

 private:
  struct Code;
  explicit TokenizerRegex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  std::shared_ptr<const Code> code_;
};

}  // namespace phalanx
