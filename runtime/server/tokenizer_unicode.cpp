// Character classes, lower-casing and normalization forms over the tables of utf8proc.
// Called by the tokenizer's normalizers, pre-tokenizers and added tokens.
#include "runtime/server/tokenizer_unicode.h"

#include <algorithm>
#include <vector>

#include <utf8proc.h>

#include "runtime/base/check.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

utf8proc_category_t category(char32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

int combining_class(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

// Text below these lead bytes is already in the form: U+0300 is the first code point that NFC can
// change, U+00A0 the first that the compatibility forms can, U+00C0 the first for NFD.
bool is_untouched(std::string_view text, NormalizationForm form) {
  const unsigned char limit = form == NormalizationForm::kNfc ? 0xCC : 0x80;
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return static_cast<unsigned char>(c) < limit; });
}

// Sorts every run of non-starters by combining class. utf8proc's own does this by exchanges, which
// is quadratic on a long run.
void reorder_marks(std::vector<utf8proc_int32_t>& code_points) {
  for (size_t i = 0; i < code_points.size();) {
    if (combining_class(code_points[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < code_points.size() && combining_class(code_points[end]) != 0) ++end;
    std::stable_sort(code_points.begin() + static_cast<std::ptrdiff_t>(i),
                     code_points.begin() + static_cast<std::ptrdiff_t>(end),
                     [](utf8proc_int32_t a, utf8proc_int32_t b) {
                       return combining_class(a) < combining_class(b);
                     });
    i = end;
  }
}

}  // namespace

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const utf8proc_category_t value = category(c);
  return value == UTF8PROC_CATEGORY_ND || value == UTF8PROC_CATEGORY_NL ||
         value == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  }
  const utf8proc_category_t value = category(c);
  return value >= UTF8PROC_CATEGORY_PC && value <= UTF8PROC_CATEGORY_PO;
}

bool is_word_character(char32_t c) {
  const utf8proc_category_t value = category(c);
  if (value >= UTF8PROC_CATEGORY_LU && value <= UTF8PROC_CATEGORY_NL) return true;  // L, M, Nd, Nl
  if (value == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D) return true;
  // The circled and squared letters are symbols with the Other_Alphabetic property.
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

bool is_unprintable(char32_t c) {
  if (c == ' ') return false;
  const utf8proc_category_t value = category(c);
  return value == UTF8PROC_CATEGORY_CN || value >= UTF8PROC_CATEGORY_ZS;
}

char32_t to_upper_simple(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t to_lower_simple(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}
bool is_upper_letter(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower_letter(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL; }
bool is_title_letter(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }
bool is_letter(char32_t c) {
  const utf8proc_category_t value = category(c);
  return value >= UTF8PROC_CATEGORY_LU && value <= UTF8PROC_CATEGORY_LO;
}
bool is_decimal_digit(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }

std::string normalize_unicode(std::string_view text, NormalizationForm form) {
  if (is_untouched(text, form)) return std::string(text);
  const bool compat = form == NormalizationForm::kNfkc || form == NormalizationForm::kNfkd;
  const bool compose = form == NormalizationForm::kNfc || form == NormalizationForm::kNfkc;
  const auto decompose_options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0));

  std::vector<utf8proc_int32_t> code_points;
  code_points.reserve(text.size());
  utf8proc_int32_t parts[32];  // the longest decomposition (U+FDFA, compatibility) has 18
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    i += c.num_bytes;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(c.code_point), parts, 32, decompose_options, nullptr);
    PHALANX_CHECK(count >= 0 && count <= 32, "utf8proc decomposition");
    code_points.insert(code_points.end(), parts, parts + count);
  }
  reorder_marks(code_points);
  auto count = static_cast<utf8proc_ssize_t>(code_points.size());
  if (compose) {
    count = utf8proc_normalize_utf32(
        code_points.data(), count,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    PHALANX_CHECK(count >= 0, "utf8proc composition");
  }
  std::string result;
  result.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < count; ++i)
    append_utf8(result, static_cast<char32_t>(code_points[static_cast<size_t>(i)]));
  return result;
}

std::string lowercase_unicode(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    i += c.num_bytes;
    if (c.code_point == 0x130) {  // the one code point whose lower case is two
      append_utf8(result, 'i');
      append_utf8(result, 0x307);
    } else {
      append_utf8(result, static_cast<char32_t>(
                              utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code_point))));
    }
  }
  return result;
}

}  // namespace phalanx
