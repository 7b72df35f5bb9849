// Template source to tokens, with the white space rules of trim_blocks and lstrip_blocks.
// Called by the template parser.
#include "runtime/server/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "runtime/server/jinja_value.h"
#include "runtime/server/tokenizer_unicode.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

using Kind = JinjaToken::Kind;

// Longer ones first.
constexpr std::array<std::string_view, 26> kOperators = {
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// \r\n and \r become \n, and one newline at the end goes.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_newlines(source)) {}

  std::vector<JinjaToken> run() {
    while (position_ < source_.size()) root();
    add(Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const { throw JinjaError(message, line_); }

  bool at(std::string_view text) const { return at(position_, text); }
  bool at(size_t position, std::string_view text) const {
    return std::string_view(source_).substr(position).starts_with(text);
  }

  void advance_to(size_t position) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(position_),
                                    source_.begin() + static_cast<std::ptrdiff_t>(position), '\n'));
    position_ = position;
  }

  JinjaToken& add(Kind kind, std::string text) {
    JinjaToken token;
    token.kind = kind;
    token.text = std::move(text);
    token.line = line_;
    tokens_.push_back(std::move(token));
    return tokens_.back();
  }

  size_t skip_space(size_t position) const {
    while (position < source_.size()) {
      const Utf8Char c = read_utf8(source_, position);
      if (!is_python_space(c.code_point)) break;
      position += c.num_bytes;
    }
    return position;
  }

  // The text before a tag: `sign` is the tag's '-' or '+' or 0.
  void add_data(std::string_view text, char sign, bool is_variable) {
    if (sign == '-') {
      text = strip_right(text);
    } else if (sign != '+' && !is_variable) {
      const size_t newline = text.rfind('\n');
      const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line_begin > 0 || line_starting_) && line_begin < text.size() &&
          strip_right(text.substr(line_begin)).empty()) {
        text = text.substr(0, line_begin);
      }
    }
    if (!text.empty()) add(Kind::kData, std::string(text));
  }

  static std::string_view strip_right(std::string_view text) {
    size_t end = text.size();
    while (end > 0) {
      size_t begin = end - 1;
      while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0U) == 0x80U) --begin;
      if (!is_python_space(read_utf8(text, begin).code_point)) break;
      end = begin;
    }
    return text.substr(0, end);
  }

  char sign_at(size_t position) const {
    if (position >= source_.size()) return 0;
    return source_[position] == '-' || source_[position] == '+' ? source_[position] : 0;
  }

  // End of `{% raw %}` when one begins at `tag`, else 0.
  size_t raw_begin(size_t tag) const {
    size_t position = tag + 2 + (sign_at(tag + 2) != 0 ? 1 : 0);
    position = skip_space(position);
    if (!at(position, "raw")) return 0;
    position = skip_space(position + 3);
    if (at(position, "-%}")) return skip_space(position + 3);
    return at(position, "%}") ? position + 2 : 0;
  }

  void root() {
    size_t tag = position_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        add(Kind::kData, source_.substr(position_));
        advance_to(source_.size());
        return;
      }
      const char next = source_[tag + 1];
      if (next == '{' || next == '%' || next == '#') break;
      ++tag;
    }
    const char kind = source_[tag + 1];
    const char sign = sign_at(tag + 2);
    add_data(std::string_view(source_).substr(position_, tag - position_), sign, kind == '{');
    advance_to(tag);
    if (kind == '%') {
      if (const size_t end = raw_begin(tag); end != 0) return raw(end);
    }
    const size_t inside = tag + 2 + (sign != 0 ? 1 : 0);
    if (kind == '#') return comment(inside);
    add(kind == '{' ? Kind::kVariableBegin : Kind::kBlockBegin, "");
    advance_to(inside);
    tag_tokens(kind == '{');
  }

  void leave_tag(size_t end) {
    line_starting_ = end > 0 && source_[end - 1] == '\n';
    advance_to(end);
  }

  void comment(size_t inside) {
    const size_t close = source_.find("#}", inside);
    if (close == std::string::npos) fail("Missing end of comment tag");
    const char sign = close > inside ? sign_at(close - 1) : 0;
    size_t end = close + 2;
    if (sign == '-') {
      end = skip_space(end);
    } else if (sign == 0 && at(end, "\n")) {
      ++end;
    }
    leave_tag(end);
  }

  void raw(size_t begin) {
    line_starting_ = source_[begin - 1] == '\n';
    advance_to(begin);
    for (size_t tag = source_.find("{%", begin); tag != std::string::npos;
         tag = source_.find("{%", tag + 1)) {
      const char sign = sign_at(tag + 2);
      size_t position = skip_space(tag + 2 + (sign != 0 ? 1 : 0));
      if (!at(position, "endraw")) continue;
      position = skip_space(position + 6);
      size_t end = 0;
      if (at(position, "+%}")) {
        end = position + 3;
      } else if (at(position, "-%}")) {
        end = skip_space(position + 3);
      } else if (at(position, "%}")) {
        end = position + 2;
        if (at(end, "\n")) ++end;
      } else {
        continue;
      }
      add_data(std::string_view(source_).substr(begin, tag - begin), sign, false);
      leave_tag(end);
      return;
    }
    if (begin < source_.size()) fail("Missing end of raw directive");
  }

  // Position behind the end of the tag when it ends here, else 0.
  size_t tag_end(bool is_variable) const {
    const std::string_view close = is_variable ? "}}" : "%}";
    if (source_[position_] == '-' && at(position_ + 1, close)) return skip_space(position_ + 3);
    if (!is_variable && source_[position_] == '+' && at(position_ + 1, close)) return position_ + 3;
    if (!at(close)) return 0;
    const size_t end = position_ + 2;
    return !is_variable && at(end, "\n") ? end + 1 : end;
  }

  void tag_tokens(bool is_variable) {
    std::string open;  // brackets that wait for their end
    while (true) {
      if (position_ >= source_.size()) fail("unexpected end of template");
      if (open.empty()) {
        if (const size_t end = tag_end(is_variable); end != 0) {
          add(is_variable ? Kind::kVariableEnd : Kind::kBlockEnd, "");
          leave_tag(end);
          return;
        }
      }
      const Utf8Char c = read_utf8(source_, position_);
      if (is_python_space(c.code_point)) {
        advance_to(skip_space(position_));
      } else if (is_digit(source_[position_])) {
        number();
      } else if (c.code_point == '_' || is_word_character(c.code_point)) {
        name();
      } else if (c.code_point == '\'' || c.code_point == '"') {
        string();
      } else {
        operator_token(open);
      }
    }
  }

  void name() {
    size_t end = position_;
    while (end < source_.size()) {
      const Utf8Char c = read_utf8(source_, end);
      if (!is_word_character(c.code_point)) break;
      end += c.num_bytes;
    }
    add(Kind::kName, source_.substr(position_, end - position_));
    advance_to(end);
  }

  void operator_token(std::string& open) {
    for (const std::string_view op : kOperators) {
      if (!at(op)) continue;
      if (op == "(" || op == "[" || op == "{") {
        open += op == "(" ? ')' : op == "[" ? ']' : '}';
      } else if (op == ")" || op == "]" || op == "}") {
        if (open.empty()) fail("unexpected '" + std::string(op) + "'");
        if (open.back() != op[0]) {
          fail("unexpected '" + std::string(op) + "', expected '" + open.back() + "'");
        }
        open.pop_back();
      }
      add(Kind::kOperator, std::string(op));
      advance_to(position_ + op.size());
      return;
    }
    const Utf8Char c = read_utf8(source_, position_);
    fail("unexpected char '" + source_.substr(position_, c.num_bytes) + "'");
  }

  // Digits with single underscores between them: the end, or `position` when there are none.
  template <typename IsDigit>
  size_t digits(size_t position, IsDigit&& accepts) const {
    size_t end = position;
    while (end < source_.size()) {
      if (accepts(source_[end])) {
        ++end;
      } else if (source_[end] == '_' && end > position && end + 1 < source_.size() &&
                 accepts(source_[end + 1])) {
        end += 2;
      } else {
        break;
      }
    }
    return end;
  }

  void number() {
    const bool after_dot = position_ > 0 && source_[position_ - 1] == '.';
    const size_t whole = digits(position_, is_digit);
    size_t end = whole;
    bool is_float = false;
    if (!after_dot) {
      if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
        end = digits(end + 1, is_digit);
        is_float = true;
      }
      if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
        size_t power = end + 1;
        if (power < source_.size() && (source_[power] == '+' || source_[power] == '-')) ++power;
        const size_t power_end = digits(power, is_digit);
        if (power_end > power) {
          end = power_end;
          is_float = true;
        }
      }
    }
    if (is_float) return add_float(end);
    add_integer();
  }

  std::string without_underscores(size_t begin, size_t end) const {
    std::string text = source_.substr(begin, end - begin);
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    return text;
  }

  void add_float(size_t end) {
    const std::string text = without_underscores(position_, end);
    double value = 0.0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc()) fail("number " + text + " is out of range");
    add(Kind::kFloat, text).real = value;
    advance_to(end);
  }

  void add_integer() {
    int base = 10;
    size_t begin = position_;
    size_t end = 0;
    const char marker =
        position_ + 1 < source_.size() ? static_cast<char>(source_[position_ + 1] | 0x20) : ' ';
    if (source_[position_] == '0' && (marker == 'x' || marker == 'o' || marker == 'b')) {
      base = marker == 'x' ? 16 : marker == 'o' ? 8 : 2;
      begin = position_ + 2;
      if (begin < source_.size() && source_[begin] == '_') ++begin;
      end = digits(begin, [base](char c) {
        const int value = is_digit(c) ? c - '0' : ((c | 0x20) >= 'a' ? (c | 0x20) - 'a' + 10 : 99);
        return value < base;
      });
      if (end == begin) base = 10;
    }
    if (base == 10) {
      begin = position_;
      const bool zero = source_[begin] == '0';  // a leading zero takes only more zeros
      end = digits(begin, [zero](char c) { return zero ? c == '0' : is_digit(c); });
    }
    const std::string text = without_underscores(begin, end);
    int64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (parsed.ec != std::errc()) fail("number " + text + " is out of range");
    add(Kind::kInteger, text).integer = value;
    advance_to(end);
  }

  void string() {
    const char quote = source_[position_];
    size_t end = position_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail(std::string("unexpected char ") + quote);
    add(Kind::kString, unescape(position_ + 1, end));
    advance_to(end + 1);
  }

  char32_t hex_escape(size_t position, size_t count, size_t end) const {
    char32_t value = 0;
    if (position + count > end) fail("truncated escape in a string");
    const char* begin = source_.data() + position;
    uint32_t parsed = 0;
    const auto result = std::from_chars(begin, begin + count, parsed, 16);
    if (result.ec != std::errc() || result.ptr != begin + count) {
      fail("truncated escape in a string");
    }
    value = parsed;
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
      fail("escape of an illegal character in a string");
    }
    return value;
  }

  std::string unescape(size_t begin, size_t end) const {
    std::string out;
    for (size_t i = begin; i < end; ++i) {
      if (source_[i] != '\\' || i + 1 >= end) {
        out += source_[i];
        continue;
      }
      const char c = source_[++i];
      switch (c) {
        case '\n':
          break;
        case '\\':
        case '\'':
        case '"':
          out += c;
          break;
        case 'a':
          out += '\a';
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'n':
          out += '\n';
          break;
        case 'r':
          out += '\r';
          break;
        case 't':
          out += '\t';
          break;
        case 'v':
          out += '\v';
          break;
        case 'x':
          append_utf8(out, hex_escape(i + 1, 2, end));
          i += 2;
          break;
        case 'u':
          append_utf8(out, hex_escape(i + 1, 4, end));
          i += 4;
          break;
        case 'U':
          append_utf8(out, hex_escape(i + 1, 8, end));
          i += 8;
          break;
        case 'N':
          fail("\\N escapes are not supported");
        default:
          if (c >= '0' && c <= '7') {
            char32_t value = 0;
            size_t used = 0;
            while (used < 3 && i + used < end && source_[i + used] >= '0' &&
                   source_[i + used] <= '7') {
              value = value * 8 + static_cast<char32_t>(source_[i + used] - '0');
              ++used;
            }
            append_utf8(out, value);
            i += used - 1;
          } else {
            out += '\\';
            out += c;
          }
      }
    }
    return out;
  }

  const std::string source_;
  size_t position_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<JinjaToken> tokens_;
};

}  // namespace

bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

std::vector<JinjaToken> lex_jinja(std::string_view source) { return Lexer(source).run(); }

}  // namespace phalanx
