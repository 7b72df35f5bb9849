// Regular expressions of tokenizer files on PCRE2 with its just-in-time compiler.
// Called by the tokenizer's normalizers, pre-tokenizers and decoders.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/server/tokenizer_regex.h"

#include <utility>

#include <pcre2.h>

#include "runtime/base/check.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

constexpr size_t kMaxPatternBytes = 16384;
constexpr uint32_t kMaxNestedGroups = 100;
constexpr uint32_t kMatchLimit = 4'000'000;    // backtracking steps of one match
constexpr uint32_t kHeapLimitKib = 32 * 1024;  // memory of one match without the compiler
constexpr size_t kJitStackMinBytes = 64 * 1024;
constexpr size_t kJitStackMaxBytes = 8 * 1024 * 1024;

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  const int length = pcre2_get_error_message(code, buffer, sizeof(buffer));
  if (length < 0) return "error " + std::to_string(code);
  return std::string(reinterpret_cast<const char*>(buffer), static_cast<size_t>(length));
}

// What one thread needs to match: created once, used for every expression.
class MatchScratch {
 public:
  MatchScratch()
      : data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        stack_(pcre2_jit_stack_create(kJitStackMinBytes, kJitStackMaxBytes, nullptr)) {
    PHALANX_CHECK(data_ != nullptr && context_ != nullptr, "PCRE2 allocation");
    pcre2_set_match_limit(context_, kMatchLimit);
    pcre2_set_heap_limit(context_, kHeapLimitKib);
    if (stack_ != nullptr) pcre2_jit_stack_assign(context_, nullptr, stack_);
  }
  ~MatchScratch() {
    pcre2_jit_stack_free(stack_);
    pcre2_match_context_free(context_);
    pcre2_match_data_free(data_);
  }
  MatchScratch(const MatchScratch&) = delete;
  MatchScratch& operator=(const MatchScratch&) = delete;

  pcre2_match_data* data() { return data_; }
  pcre2_match_context* context() { return context_; }

 private:
  pcre2_match_data* data_;
  pcre2_match_context* context_;
  pcre2_jit_stack* stack_;
};

MatchScratch& thread_scratch() {
  thread_local MatchScratch scratch;
  return scratch;
}

}  // namespace

struct TokenizerRegex::Code {
  pcre2_code* code = nullptr;
  explicit Code(pcre2_code* value) : code(value) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

Result<TokenizerRegex> TokenizerRegex::compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return invalid_argument("regular expression: " + std::to_string(pattern.size()) +
                            " bytes, at most " + std::to_string(kMaxPatternBytes));
  }
  if (const auto offset = find_ill_formed_utf8(pattern)) {
    return invalid_argument("regular expression, offset " + std::to_string(*offset) +
                            ": not UTF-8");
  }
  PHALANX_ASSIGN_OR_RETURN(const std::string translated, translate_oniguruma_pattern(pattern));

  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  PHALANX_CHECK(context != nullptr, "PCRE2 allocation");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, kMaxNestedGroups);
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                    &error_offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) {
    return invalid_argument("regular expression, near offset " + std::to_string(error_offset) +
                            ": " + pcre2_message(error));
  }
  auto owner = std::make_shared<const Code>(code);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it the interpreter matches the same
  return TokenizerRegex(std::move(owner));
}

Result<bool> TokenizerRegex::Cursor::next(Match& match) {
  MatchScratch& scratch = thread_scratch();
  while (position_ <= text_.size()) {
    const int found =
        pcre2_match(regex_.code_->code, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(),
                    position_, PCRE2_NO_UTF_CHECK, scratch.data(), scratch.context());
    if (found == PCRE2_ERROR_NOMATCH) {
      position_ = text_.size() + 1;
      return false;
    }
    if (found < 0) {
      return resource_exhausted("regular expression at byte " + std::to_string(position_) +
                                " of the text: " + pcre2_message(found));
    }
    const PCRE2_SIZE* ovector = pcre2_get_ovector_pointer(scratch.data());
    match = {ovector[0], ovector[1]};
    if (match.begin == match.end && matched_before_ && last_match_end_ == match.end) {
      position_ += position_ < text_.size() ? read_utf8(text_, position_).num_bytes : 1;
      continue;
    }
    position_ = match.end;
    last_match_end_ = match.end;
    matched_before_ = true;
    return true;
  }
  return false;
}

}  // namespace phalanx
