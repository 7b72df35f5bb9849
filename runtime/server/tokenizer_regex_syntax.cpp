// Translates the regular expressions of tokenizer files from Oniguruma's syntax to PCRE2's.
// Called by TokenizerRegex::compile.
#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/server/tokenizer_regex.h"

namespace phalanx {
namespace {

// White_Space and its complement as class contents. PCRE2's own \s also has U+180E.
constexpr std::string_view kSpace =
    R"(\x09-\x0D\x20\x85\xA0\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x00-\x08\x0E-\x1F\x21-\x84\x86-\x9F\xA1-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027})"
    R"(\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{D7FF}\x{E000}-\x{10FFFF})";
// Alphabetic, marks, decimal digits and connectors: PCRE2's own \w lacks marks. \w outside a
// class, but neither \w inside one nor [:word:], has the six numbers of Latin-1 that are no digits.
constexpr std::string_view kWord =
    R"(\xB2\xB3\xB9\xBC-\xBE\p{L}\p{M}\p{Nl}\p{Nd}\p{Pc}\x{24B6}-\x{24E9})"
    R"(\x{1F130}-\x{1F149}\x{1F150}-\x{1F169}\x{1F170}-\x{1F189})";
constexpr std::string_view kPosixWord =
    R"(\p{L}\p{M}\p{Nl}\p{Nd}\p{Pc}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169})"
    R"(\x{1F170}-\x{1F189})";
constexpr std::string_view kHex = "0-9A-Fa-f";

constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kLongCategoryNames = {{
    {"Letter", "L"},
    {"Mark", "M"},
    {"Number", "N"},
    {"Punctuation", "P"},
    {"Symbol", "S"},
    {"Separator", "Z"},
    {"Other", "C"},
}};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    while (position_ < pattern_.size()) {
      const char c = pattern_[position_];
      if (c == '\\') {
        PHALANX_RETURN_IF_ERROR(escape(/*in_class=*/false));
      } else if (c == '[') {
        PHALANX_RETURN_IF_ERROR(character_class());
      } else if (c == '(') {
        PHALANX_RETURN_IF_ERROR(group());
      } else if (c == '{') {
        PHALANX_RETURN_IF_ERROR(interval());
      } else {
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  char peek(size_t ahead) const {
    return position_ + ahead < pattern_.size() ? pattern_[position_ + ahead] : '\0';
  }
  void copy(size_t count) {
    out_ += pattern_.substr(position_, count);
    position_ += count;
  }
  void replace(size_t count, std::string_view text) {
    out_ += text;
    position_ += count;
  }
  void replace_set(size_t count, std::string_view content, bool in_class, bool negated) {
    if (in_class) return replace(count, content);
    replace(count, std::string(negated ? "[^" : "[") + std::string(content) + "]");
  }
  Error refuse(std::string_view what) const {
    return unsupported("regular expression, offset " + std::to_string(position_) + ": " +
                       std::string(what) + " is not supported");
  }

  Status escape(bool in_class) {
    const char c = peek(1);
    switch (c) {
      case 's':
        replace_set(2, kSpace, in_class, false);
        return {};
      case 'S':
        replace_set(2, kNotSpace, in_class, false);
        return {};
      case 'w':
        replace_set(2, in_class ? kPosixWord : kWord, in_class, false);
        return {};
      case 'W':
        if (in_class) return refuse("\\W in a character class");
        replace_set(2, kWord, in_class, true);
        return {};
      case 'h':
        replace_set(2, kHex, in_class, false);
        return {};
      case 'H':
        if (in_class) return refuse("\\H in a character class");
        replace_set(2, kHex, in_class, true);
        return {};
      case 'b':
      case 'B':
        if (in_class) {
          copy(2);
        } else {
          word_boundary(c == 'B');
        }
        return {};
      case 'v':
        replace(2, "\\x0B");
        return {};
      case 'u':
        return code_unit();
      case 'p':
      case 'P':
        return property();
      case 'x':
        if (peek(2) != '{' && !is_hex(peek(2))) return refuse("\\x without digits");
        copy(2);
        return {};
      case 'd':
      case 'D':
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        copy(2);
        return {};
      case 'A':
      case 'z':
      case 'Z':
      case 'k':
      case 'R':
      case 'X':
      case 'N':
        if (in_class) return refuse(std::string("\\") + c + " in a character class");
        copy(2);
        return {};
      default:
        break;
    }
    if (c == '\0' && position_ + 1 >= pattern_.size()) return refuse("a final backslash");
    const bool alphanumeric = is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (is_digit(c) && !in_class) {
      copy(2);
      return {};
    }
    if (alphanumeric) return refuse(std::string("\\") + c);
    copy(2);
    return {};
  }

  void word_boundary(bool negated) {
    const std::string word = "[" + std::string(kWord) + "]";
    const std::string in = "(?<=" + word + ")";
    const std::string not_in = "(?<!" + word + ")";
    const std::string ahead = "(?=" + word + ")";
    const std::string not_ahead = "(?!" + word + ")";
    if (negated) {
      replace(2, "(?:" + in + ahead + "|" + not_in + not_ahead + ")");
    } else {
      replace(2, "(?:" + in + not_ahead + "|" + not_in + ahead + ")");
    }
  }

  Status code_unit() {
    for (size_t i = 2; i < 6; ++i)
      if (!is_hex(peek(i))) return refuse("\\u without four hexadecimal digits");
    const std::string digits(pattern_.substr(position_ + 2, 4));
    replace(6, "\\x{" + digits + "}");
    return {};
  }

  Status property() {
    if (peek(2) != '{') return refuse("a property without braces");
    const size_t close = pattern_.find('}', position_);
    if (close == std::string_view::npos) return refuse("an open property");
    std::string_view name = pattern_.substr(position_ + 3, close - position_ - 3);
    const bool caret = !name.empty() && name.front() == '^';
    if (caret) name.remove_prefix(1);
    for (const auto& [long_name, short_name] : kLongCategoryNames)
      if (name == long_name) name = short_name;
    std::string text = peek(1) == 'P' ? "\\P{" : "\\p{";
    if (caret) text += '^';
    text += name;
    text += '}';
    replace(close + 1 - position_, text);
    return {};
  }

  Status character_class() {
    copy(1);
    if (peek(0) == '^') copy(1);
    if (peek(0) == ']') copy(1);
    while (position_ < pattern_.size()) {
      const char c = pattern_[position_];
      if (c == ']') {
        copy(1);
        return {};
      }
      if (c == '\\') {
        PHALANX_RETURN_IF_ERROR(escape(/*in_class=*/true));
      } else if (c == '[') {
        if (peek(1) != ':') return refuse("a class inside a class");
        const size_t close = pattern_.find(":]", position_ + 2);
        if (close == std::string_view::npos) return refuse("an open [: :]");
        const std::string_view name = pattern_.substr(position_ + 2, close - position_ - 2);
        const size_t length = close + 2 - position_;
        if (name == "space") {
          replace(length, kSpace);
        } else if (name == "^space") {
          replace(length, kNotSpace);
        } else if (name == "punct") {
          replace(length, "\\p{P}\\p{S}");
        } else if (name == "word") {
          replace(length, kPosixWord);
        } else if (name == "^word" || name == "^punct") {
          return refuse("[:" + std::string(name) + ":]");
        } else {
          copy(length);
        }
      } else if (c == '&' && peek(1) == '&') {
        return refuse("&& in a character class");
      } else {
        copy(1);
      }
    }
    return refuse("an open character class");
  }

  Status group() {
    if (peek(1) == '*') return refuse("(*");
    if (peek(1) != '?') {
      copy(1);
      return {};
    }
    const char kind = peek(2);
    if (kind == ':' || kind == '=' || kind == '!' || kind == '>') {
      copy(3);
      return {};
    }
    if (kind == '#') {
      copy(3);
      while (position_ < pattern_.size() && pattern_[position_] != ')') copy(1);
      return {};
    }
    if (kind == '<') {
      copy(3);
      return {};
    }
    // Option letters: Oniguruma's m is PCRE2's s.
    size_t end = position_ + 2;
    std::string options;
    while (end < pattern_.size() && pattern_[end] != ')' && pattern_[end] != ':') {
      const char c = pattern_[end];
      if (c != 'i' && c != 'm' && c != 'x' && c != '-') {
        return refuse(std::string("(?") + c);
      }
      options += c == 'm' ? 's' : c;
      ++end;
    }
    replace(end - position_, "(?" + options);
    return {};
  }

  Status interval() {
    size_t end = position_ + 1;
    while (end < pattern_.size() && (is_digit(pattern_[end]) || pattern_[end] == ',')) ++end;
    if (end >= pattern_.size() || pattern_[end] != '}' || end == position_ + 1) {
      copy(1);  // a literal brace
      return {};
    }
    const char after = end + 1 < pattern_.size() ? pattern_[end + 1] : '\0';
    if (after == '+') return refuse("+ after an interval");
    if (peek(1) == ',') {
      replace(1, "{0");
    } else {
      copy(1);
    }
    return {};
  }

  std::string_view pattern_;
  size_t position_ = 0;
  std::string out_;
};

}  // namespace

Result<std::string> translate_oniguruma_pattern(std::string_view pattern) {
  return Translator(pattern).run();
}

}  // namespace phalanx
