// Character classes, lower-casing and normalization forms, as the tokenizers library defines them.
// Called by the tokenizer's normalizers, pre-tokenizers and added tokens, and the template
// language.
#pragma once

#include <string>
#include <string_view>

namespace phalanx {

/// Unicode White_Space.
bool is_white_space(char32_t code_point);
/// General category N (decimal, letter and other numbers).
bool is_numeric(char32_t code_point);
/// General category P, and the ASCII symbols.
bool is_punctuation(char32_t code_point);
/// Alphabetic, marks, decimal digits, connector punctuation, joiners: \w of UTS #18 annex C.
bool is_word_character(char32_t code_point);

/// General categories C and Z but the space: what Python's str.isprintable refuses.
bool is_unprintable(char32_t code_point);

enum class NormalizationForm { kNfc, kNfd, kNfkc, kNfkd };

/// `text` in the given form. O(n log n) in the longest run of combining marks.
/// text  well-formed UTF-8. Source: UAX #15 (tables of utf8proc).
std::string normalize_unicode(std::string_view text, NormalizationForm form);

/// `text` with every code point replaced by its full lower-case mapping (no context, no locale).
std::string lowercase_unicode(std::string_view text);

/// Simple (one to one) case mappings and tests, for the template language.
char32_t to_upper_simple(char32_t code_point);
char32_t to_lower_simple(char32_t code_point);
bool is_upper_letter(char32_t code_point);   ///< category Lu
bool is_lower_letter(char32_t code_point);   ///< category Ll
bool is_title_letter(char32_t code_point);   ///< category Lt
bool is_letter(char32_t code_point);         ///< category L
bool is_decimal_digit(char32_t code_point);  ///< category Nd

}  // namespace phalanx
