// Values of the template language as text: Python's str, repr and json.dumps.
// Called by the interpreter, filters and methods.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "runtime/server/jinja_value.h"
#include "runtime/server/tokenizer_unicode.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

void check_size(const std::string& out, size_t max_bytes) {
  if (out.size() > max_bytes) {
    throw JinjaError("text longer than " + std::to_string(max_bytes) + " bytes");
  }
}

void append_hex(std::string& out, const char* prefix, char32_t value, int digits) {
  char buffer[16];
  std::snprintf(buffer, sizeof(buffer), "%0*x", digits, static_cast<unsigned>(value));
  out += prefix;
  out += buffer;
}

// Categories C and Z but the space: what Python's repr escapes.
bool is_printable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  return !is_unprintable(c);
}

void append_string_repr(std::string& out, const std::string& text) {
  const bool has_single = text.find('\'') != std::string::npos;
  const bool has_double = text.find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out += quote;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    if (c.code_point == static_cast<char32_t>(quote) || c.code_point == '\\') {
      out += '\\';
      out += static_cast<char>(c.code_point);
    } else if (c.code_point == '\n') {
      out += "\\n";
    } else if (c.code_point == '\r') {
      out += "\\r";
    } else if (c.code_point == '\t') {
      out += "\\t";
    } else if (is_printable(c.code_point)) {
      out.append(text, i, c.num_bytes);
    } else if (c.code_point < 0x100) {
      append_hex(out, "\\x", c.code_point, 2);
    } else if (c.code_point < 0x10000) {
      append_hex(out, "\\u", c.code_point, 4);
    } else {
      append_hex(out, "\\U", c.code_point, 8);
    }
    i += c.num_bytes;
  }
  out += quote;
}

void append_repr(std::string& out, const JinjaValue& value, size_t max_bytes) {
  check_size(out, max_bytes);
  if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_none()) {
    out += "None";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "True" : "False";
  } else if (value.is_int()) {
    out += std::to_string(value.as_int());
  } else if (value.is_float()) {
    out += jinja_float_text(value.as_float());
  } else if (value.is_string()) {
    append_string_repr(out, value.as_string());
  } else if (value.is_sequence()) {
    const auto& items = value.items();
    out += value.is_tuple() ? '(' : '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += ", ";
      append_repr(out, items[i], max_bytes);
    }
    if (value.is_tuple() && items.size() == 1) out += ',';
    out += value.is_tuple() ? ')' : ']';
  } else if (value.is_dict()) {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : value.as_dict().entries()) {
      if (!first) out += ", ";
      first = false;
      append_repr(out, key, max_bytes);
      out += ": ";
      append_repr(out, item, max_bytes);
    }
    out += '}';
  } else {
    throw JinjaError(std::string("a ") + value.type_name() + " cannot be printed");
  }
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, size_t max_bytes, std::string& out)
      : style_(style), max_bytes_(max_bytes), out_(out) {}

  void write(const JinjaValue& value, int level) {
    check_size(out_, max_bytes_);
    if (value.is_none()) {
      out_ += "null";
    } else if (value.is_bool()) {
      out_ += value.as_bool() ? "true" : "false";
    } else if (value.is_int()) {
      out_ += std::to_string(value.as_int());
    } else if (value.is_float()) {
      write_float(value.as_float());
    } else if (value.is_string()) {
      write_string(value.as_string());
    } else if (value.is_sequence()) {
      write_list(value, level);
    } else if (value.is_dict()) {
      write_dict(value.as_dict(), level);
    } else {
      throw JinjaError(std::string("Object of type ") + value.type_name() +
                       " is not JSON serializable");
    }
  }

 private:
  void write_float(double value) {
    if (std::isnan(value)) {
      out_ += "NaN";
    } else if (std::isinf(value)) {
      out_ += value > 0 ? "Infinity" : "-Infinity";
    } else {
      out_ += jinja_float_text(value);
    }
  }

  void write_string(const std::string& text) {
    out_ += '"';
    for (size_t i = 0; i < text.size();) {
      const Utf8Char c = read_utf8(text, i);
      switch (c.code_point) {
        case '"':
          out_ += "\\\"";
          break;
        case '\\':
          out_ += "\\\\";
          break;
        case '\n':
          out_ += "\\n";
          break;
        case '\r':
          out_ += "\\r";
          break;
        case '\t':
          out_ += "\\t";
          break;
        case '\b':
          out_ += "\\b";
          break;
        case '\f':
          out_ += "\\f";
          break;
        default:
          if (c.code_point < 0x20 ||
              (style_.ensure_ascii && c.code_point > 0x7E && c.code_point < 0x10000)) {
            append_hex(out_, "\\u", c.code_point, 4);
          } else if (style_.ensure_ascii && c.code_point >= 0x10000) {
            append_hex(out_, "\\u", 0xD800 + ((c.code_point - 0x10000) >> 10), 4);
            append_hex(out_, "\\u", 0xDC00 + ((c.code_point - 0x10000) & 0x3FF), 4);
          } else {
            out_.append(text, i, c.num_bytes);
          }
      }
      i += c.num_bytes;
    }
    out_ += '"';
  }

  void write_break(int level) {
    if (!style_.pretty) return;
    out_ += '\n';
    for (int i = 0; i < level; ++i) out_ += style_.indent;
  }

  void write_list(const JinjaValue& value, int level) {
    if (value.items().empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    bool first = true;
    for (const JinjaValue& item : value.items()) {
      if (!first) out_ += style_.item_separator;
      first = false;
      write_break(level + 1);
      write(item, level + 1);
    }
    write_break(level);
    out_ += ']';
  }

  std::string key_text(const JinjaValue& key) const {
    if (key.is_string()) return key.as_string();
    if (key.is_none()) return "null";
    if (key.is_bool()) return key.as_bool() ? "true" : "false";
    if (key.is_int()) return std::to_string(key.as_int());
    if (key.is_float()) return jinja_float_text(key.as_float());
    throw JinjaError(std::string("keys must be str, int, float, bool or None, not ") +
                     key.type_name());
  }

  void write_dict(const JinjaDict& dict, int level) {
    if (dict.size() == 0) {
      out_ += "{}";
      return;
    }
    std::vector<const JinjaDict::Entry*> entries;
    for (const auto& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        return key_text(a->first) < key_text(b->first);
      });
    }
    out_ += '{';
    bool first = true;
    for (const auto* entry : entries) {
      if (!first) out_ += style_.item_separator;
      first = false;
      write_break(level + 1);
      write_string(key_text(entry->first));
      out_ += style_.key_separator;
      write(entry->second, level + 1);
    }
    write_break(level);
    out_ += '}';
  }

  const JsonStyle& style_;
  size_t max_bytes_;
  std::string& out_;
};

}  // namespace

std::string jinja_float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string text(buffer, end.ptr);  // d.ddde[+-]dd: the shortest digits
  const size_t e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  std::string digits;
  for (size_t i = 0; i < e; ++i)
    if (text[i] >= '0' && text[i] <= '9') digits += text[i];
  std::string out = text[0] == '-' ? "-" : "";
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    out += exponent < 0 ? "e-" : "e+";
    const std::string power = std::to_string(std::abs(exponent));
    out += power.size() < 2 ? "0" + power : power;
  } else if (exponent < 0) {
    out += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else if (count <= exponent + 1) {
    out += digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  } else {
    out += digits.substr(0, static_cast<size_t>(exponent + 1)) + "." +
           digits.substr(static_cast<size_t>(exponent + 1));
  }
  return out;
}

std::string jinja_repr(const JinjaValue& value, size_t max_bytes) {
  std::string out;
  append_repr(out, value, max_bytes);
  check_size(out, max_bytes);
  return out;
}

std::string jinja_str(const JinjaValue& value, size_t max_bytes) {
  if (value.is_string()) return value.as_string();
  if (value.is_undefined()) return {};
  return jinja_repr(value, max_bytes);
}

std::string jinja_json(const JinjaValue& value, const JsonStyle& style, size_t max_bytes) {
  std::string out;
  JsonWriter(style, max_bytes, out).write(value, 0);
  check_size(out, max_bytes);
  return out;
}

}  // namespace phalanx
