// The filters of the template language that work on one value: text, numbers, tojson, default.
// Called by the interpreter. jinja_sequence_filters.cpp has those on sequences.
#include "runtime/server/jinja_filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "runtime/server/jinja_builtins.h"
#include "runtime/server/jinja_lexer.h"
#include "runtime/server/tokenizer_unicode.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

JinjaValue filter_default(JinjaInterpreter&, const JinjaValue& value,
                          const JinjaArguments& arguments) {
  const JinjaBinding bound("default", arguments, {"default_value", "boolean"});
  if (value.is_undefined() || (bound.truth_or(1, false) && !jinja_truth(value))) {
    return bound.has(0) ? bound.at(0) : JinjaValue::string("");
  }
  return value;
}

JinjaValue filter_tojson(JinjaInterpreter& run, const JinjaValue& value,
                         const JinjaArguments& arguments) {
  const JinjaBinding bound("tojson", arguments,
                           {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.truth_or(0, false);
  if (bound.has(1) && !bound.at(1).is_none()) {
    style.pretty = true;
    style.item_separator = ",";
    if (bound.at(1).is_string()) {
      style.indent = bound.string(1);
    } else {
      style.indent.assign(static_cast<size_t>(std::clamp<int64_t>(bound.integer_or(1, 0), 0, 64)),
                          ' ');
    }
  }
  if (bound.has(2) && !bound.at(2).is_none()) {
    const JinjaValue& separators = bound.at(2);
    if (!separators.is_sequence() || separators.items().size() != 2 ||
        !separators.items()[0].is_string() || !separators.items()[1].is_string()) {
      throw JinjaError("tojson: separators must be two strings");
    }
    style.item_separator = separators.items()[0].as_string();
    style.key_separator = separators.items()[1].as_string();
  }
  style.sort_keys = bound.truth_or(3, false);
  return run.text(jinja_json(value, style, run.max_bytes()));
}

JinjaValue filter_trim(JinjaInterpreter& run, const JinjaValue& value,
                       const JinjaArguments& arguments) {
  const JinjaBinding bound("trim", arguments, {"chars"});
  std::optional<std::string> characters;
  if (bound.has(0) && !bound.at(0).is_none()) characters = bound.string(0);
  return run.text(python_strip(run.str(value), characters, true, true));
}

JinjaValue filter_replace(JinjaInterpreter& run, const JinjaValue& value,
                          const JinjaArguments& arguments) {
  const JinjaBinding bound("replace", arguments, {"old", "new", "count"});
  const bool all = !bound.has(2) || bound.at(2).is_none();
  return JinjaValue::string(python_replace(run, run.str(value), run.str(bound.at(0)),
                                           run.str(bound.at(1)),
                                           all ? -1 : bound.integer_or(2, -1)));
}

// jinja2's title also begins a word after -, (, {, [ and <, and white space only.
JinjaValue filter_title(JinjaInterpreter& run, const JinjaValue& value,
                        const JinjaArguments& arguments) {
  const JinjaBinding none("title", arguments, {});
  const std::string text = run.str(value);
  std::string out;
  bool starts_word = true;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    i += c.num_bytes;
    append_utf8(out, starts_word ? to_upper_simple(c.code_point) : to_lower_simple(c.code_point));
    starts_word = is_python_space(c.code_point) || c.code_point == '-' || c.code_point == '(' ||
                  c.code_point == '{' || c.code_point == '[' || c.code_point == '<';
  }
  return run.text(std::move(out));
}

JinjaValue filter_indent(JinjaInterpreter& run, const JinjaValue& value,
                         const JinjaArguments& arguments) {
  const JinjaBinding bound("indent", arguments, {"width", "first", "blank"});
  std::string indent;
  if (bound.has(0) && bound.at(0).is_string()) {
    indent = bound.string(0);
  } else {
    indent.assign(static_cast<size_t>(std::clamp<int64_t>(bound.integer_or(0, 4), 0, 1024)), ' ');
  }
  const bool blank = bound.truth_or(2, false);
  JinjaArguments none;
  const JinjaValue lines = call_jinja_string_method(run, run.str(value) + "\n", "splitlines", none);
  std::string out;
  bool is_first = true;
  for (const JinjaValue& line : lines.items()) {
    if (!is_first) out += '\n';
    if (is_first ? bound.truth_or(1, false) : (blank || !line.as_string().empty())) out += indent;
    out += line.as_string();
    is_first = false;
    if (out.size() > run.max_bytes()) break;  // text() reports it
  }
  return run.text(std::move(out));
}

// The whole text as a number, with white space around it and underscores between digits.
std::optional<double> read_float(const std::string& text) {
  std::string digits = python_strip(text, std::nullopt, true, true);
  if (digits.starts_with('+')) digits.erase(0, 1);
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  double number = 0.0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size()) return std::nullopt;
  return number;
}

std::optional<int64_t> read_integer(const std::string& text, int base) {
  std::string digits = python_strip(text, std::nullopt, true, true);
  if (digits.starts_with('+')) digits.erase(0, 1);
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  const size_t sign = digits.starts_with('-') ? 1 : 0;
  if (digits.size() > sign + 2 && digits[sign] == '0') {  // 0x1f with base 16, and so on
    const char marker = static_cast<char>(digits[sign + 1] | 0x20);
    const int meant = marker == 'x' ? 16 : marker == 'o' ? 8 : marker == 'b' ? 2 : 0;
    if (meant == base) digits.erase(sign, 2);
  }
  int64_t number = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), number, base);
  if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size()) return std::nullopt;
  return number;
}

JinjaValue filter_int(JinjaInterpreter&, const JinjaValue& value, const JinjaArguments& arguments) {
  const JinjaBinding bound("int", arguments, {"default", "base"});
  JinjaValue otherwise = bound.has(0) ? bound.at(0) : JinjaValue::integer(0);
  const int64_t base = bound.integer_or(1, 10);
  if (base < 2 || base > 36) throw JinjaError("int: base must be from 2 to 36");
  if (value.is_undefined()) throw JinjaError(value.undefined_message());
  if (value.is_int() || value.is_bool()) return JinjaValue::integer(value.as_int());
  std::optional<double> number;
  if (value.is_string()) {
    if (const auto whole = read_integer(value.as_string(), static_cast<int>(base))) {
      return JinjaValue::integer(*whole);
    }
    number = read_float(value.as_string());
  } else if (value.is_float()) {
    number = value.as_float();
  }
  if (!number || !(std::abs(*number) < 9e18)) return otherwise;
  return JinjaValue::integer(static_cast<int64_t>(*number));
}

JinjaValue filter_float(JinjaInterpreter&, const JinjaValue& value,
                        const JinjaArguments& arguments) {
  const JinjaBinding bound("float", arguments, {"default"});
  if (value.is_undefined()) throw JinjaError(value.undefined_message());
  if (value.is_number()) return JinjaValue::real(value.as_float());
  if (value.is_string()) {
    if (const auto number = read_float(value.as_string())) return JinjaValue::real(*number);
  }
  return bound.has(0) ? bound.at(0) : JinjaValue::real(0.0);
}

const JinjaValue& need_number(const char* filter, const JinjaValue& value) {
  if (value.is_undefined()) throw JinjaError(value.undefined_message());
  if (!value.is_number()) {
    throw JinjaError(std::string(filter) + ": must be a number, not " + value.type_name());
  }
  return value;
}

JinjaValue filter_abs(JinjaInterpreter&, const JinjaValue& value, const JinjaArguments& arguments) {
  const JinjaBinding none("abs", arguments, {});
  need_number("abs", value);
  if (value.is_float()) return JinjaValue::real(std::abs(value.as_float()));
  if (value.as_int() == INT64_MIN) throw JinjaError("integer of more than 64 bits");
  return JinjaValue::integer(std::abs(value.as_int()));
}

JinjaValue filter_round(JinjaInterpreter&, const JinjaValue& value,
                        const JinjaArguments& arguments) {
  const JinjaBinding bound("round", arguments, {"precision", "method"});
  const int64_t precision = std::clamp<int64_t>(bound.integer_or(0, 0), -300, 300);
  const std::string method = bound.string_or(1, "common");
  const double number = need_number("round", value).as_float();
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return JinjaValue::real(std::ceil(number * scale) / scale);
  if (method == "floor") return JinjaValue::real(std::floor(number * scale) / scale);
  if (method != "common") throw JinjaError("method must be common, ceil or floor");
  if (precision >= 0 && precision <= 20 && std::isfinite(number) && std::abs(number) < 1e17) {
    // Correct rounding of the exact binary value, as Python's round.
    char buffer[512];
    std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision), number);
    const double rounded = std::strtod(buffer, nullptr);
    return value.is_float() || precision != 0 ? JinjaValue::real(rounded)
                                              : JinjaValue::integer(value.as_int());
  }
  return JinjaValue::real(std::nearbyint(number * scale) / scale);
}

JinjaValue filter_escape(JinjaInterpreter& run, const JinjaValue& value,
                         const JinjaArguments& arguments) {
  const JinjaBinding none("escape", arguments, {});
  std::string out;
  for (const char c : run.str(value)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return run.text(std::move(out));
}

JinjaValue filter_attr(JinjaInterpreter& run, const JinjaValue& value,
                       const JinjaArguments& arguments) {
  const JinjaBinding bound("attr", arguments, {"name"});
  if (value.is_dict()) {  // a method, never a key
    if (find_jinja_method(value, bound.string(0)) == JinjaMethodStatus::kNone) {
      return JinjaValue::undefined("'dict object' has no attribute '" + bound.string(0) + "'");
    }
  }
  return run.attribute(value, bound.string(0));
}

JinjaValue filter_format(JinjaInterpreter& run, const JinjaValue& value,
                         const JinjaArguments& arguments) {
  if (!arguments.named.empty()) throw JinjaError("format with keywords is not supported");
  return jinja_binary(run, "%", JinjaValue::string(run.str(value)),
                      JinjaValue::tuple(arguments.positional));
}

JinjaValue filter_center(JinjaInterpreter& run, const JinjaValue& value,
                         const JinjaArguments& arguments) {
  const JinjaBinding bound("center", arguments, {"width"});
  JinjaArguments width;
  width.positional.push_back(JinjaValue::integer(bound.integer_or(0, 80)));
  return call_jinja_string_method(run, run.str(value), "center", width);
}

JinjaValue filter_wordcount(JinjaInterpreter& run, const JinjaValue& value,
                            const JinjaArguments& arguments) {
  const JinjaBinding none("wordcount", arguments, {});
  const std::string text = run.str(value);
  int64_t count = 0;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    const bool is_word = c.code_point == '_' || is_letter(c.code_point) || is_numeric(c.code_point);
    if (is_word && !in_word) ++count;
    in_word = is_word;
    i += c.num_bytes;
  }
  return JinjaValue::integer(count);
}

template <std::string (*Map)(std::string_view)>
JinjaValue filter_text(JinjaInterpreter& run, const JinjaValue& value,
                       const JinjaArguments& arguments) {
  const JinjaBinding none("filter", arguments, {});
  return run.text(Map(run.str(value)));
}

JinjaValue filter_string(JinjaInterpreter& run, const JinjaValue& value,
                         const JinjaArguments& arguments) {
  const JinjaBinding none("string", arguments, {});
  return value.is_string() ? value : JinjaValue::string(run.str(value));
}

const std::unordered_map<std::string_view, JinjaFilter>& value_filters() {
  static const std::unordered_map<std::string_view, JinjaFilter> table = {
      {"abs", filter_abs},
      {"attr", filter_attr},
      {"capitalize", filter_text<python_capitalize>},
      {"center", filter_center},
      {"d", filter_default},
      {"default", filter_default},
      {"e", filter_escape},
      {"escape", filter_escape},
      {"float", filter_float},
      {"forceescape", filter_escape},
      {"format", filter_format},
      {"indent", filter_indent},
      {"int", filter_int},
      {"lower", filter_text<python_lower>},
      {"replace", filter_replace},
      {"round", filter_round},
      {"safe", filter_string},
      {"string", filter_string},
      {"title", filter_title},
      {"tojson", filter_tojson},
      {"trim", filter_trim},
      {"upper", filter_text<python_upper>},
      {"wordcount", filter_wordcount},
  };
  return table;
}

JinjaFilter find_filter(std::string_view name) {
  const auto found = value_filters().find(name);
  return found != value_filters().end() ? found->second : find_jinja_sequence_filter(name);
}

}  // namespace

bool has_jinja_filter(std::string_view name) { return find_filter(name) != nullptr; }

JinjaValue apply_jinja_filter(JinjaInterpreter& run, std::string_view name, const JinjaValue& value,
                              const JinjaArguments& arguments) {
  const JinjaFilter filter = find_filter(name);
  if (filter == nullptr) throw JinjaError("No filter named '" + std::string(name) + "'.");
  run.charge(1 + (value.is_string() ? value.as_string().size() / 64 : 0));
  return filter(run, value, arguments);
}

}  // namespace phalanx
