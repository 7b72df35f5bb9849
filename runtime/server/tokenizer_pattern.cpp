// The `pattern` field of tokenizer components: {"String": ...} or {"Regex": ...}, as one matcher.
// Called by the tokenizer's normalizers, pre-tokenizers and decoders.
#include "runtime/server/tokenizer_pattern.h"

#include <utility>

namespace phalanx {
namespace {

constexpr size_t kMaxReplacedBytes = size_t{1} << 29;

}  // namespace

Result<TokenizerPattern> TokenizerPattern::parse(const JsonField& field) {
  PHALANX_RETURN_IF_ERROR(field.expect_object());
  if (const JsonField text = field["String"]; !text.is_null()) {
    PHALANX_ASSIGN_OR_RETURN(std::string value, text.as_string());
    if (value.empty()) return text.refuse("an empty pattern");
    return literal(std::move(value));
  }
  const JsonField expression = field["Regex"];
  if (expression.is_null()) return field.invalid("must have a member String or Regex");
  PHALANX_ASSIGN_OR_RETURN(const std::string value, expression.as_string());
  Result<TokenizerPattern> pattern = regex(value);
  if (!pattern.ok()) {
    return Error{pattern.error().code, expression.path() + ": " + pattern.error().message};
  }
  return pattern;
}

Result<TokenizerPattern> TokenizerPattern::regex(std::string_view expression) {
  TokenizerPattern pattern;
  PHALANX_ASSIGN_OR_RETURN(pattern.regex_, TokenizerRegex::compile(expression));
  return pattern;
}

TokenizerPattern TokenizerPattern::literal(std::string text) {
  TokenizerPattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

Result<std::string> TokenizerPattern::replace_all(std::string_view text,
                                                  std::string_view content) const {
  std::string out;
  out.reserve(text.size());
  size_t last = 0;
  bool too_long = false;
  PHALANX_RETURN_IF_ERROR(for_each_match(text, [&](size_t begin, size_t end) {
    too_long = too_long || out.size() > kMaxReplacedBytes;
    if (too_long) return;
    out += text.substr(last, begin - last);
    out += content;
    last = end;
  }));
  if (too_long) {
    return resource_exhausted("replacing makes a text of more than " +
                              std::to_string(kMaxReplacedBytes) + " bytes");
  }
  out += text.substr(last);
  return out;
}

}  // namespace phalanx
