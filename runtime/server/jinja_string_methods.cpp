// Python's str methods, by code point.
// Called by the interpreter through call_jinja_method, and by filters.
#include <algorithm>
#include <functional>
#include <unordered_map>

#include "runtime/server/jinja_builtins.h"
#include "runtime/server/jinja_lexer.h"
#include "runtime/server/tokenizer_unicode.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

using Method = JinjaValue (*)(JinjaInterpreter&, const std::string&, const JinjaArguments&);

constexpr size_t kNpos = std::string_view::npos;

std::string map_characters(std::string_view text, char32_t (*map)(char32_t)) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    append_utf8(out, map(c.code_point));
    i += c.num_bytes;
  }
  return out;
}

void append_upper(std::string& out, char32_t c) {
  if (c == 0xDF) {
    out += "SS";  // the common one of the mappings to several characters
  } else {
    append_utf8(out, to_upper_simple(c));
  }
}

bool is_cased(char32_t c) { return is_upper_letter(c) || is_lower_letter(c) || is_title_letter(c); }

// Non-empty, and every character satisfies the predicate.
template <typename Predicate>
bool all_characters(const std::string& text, Predicate&& predicate) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    if (!predicate(c.code_point)) return false;
    i += c.num_bytes;
  }
  return !text.empty();
}

// Some cased character, and none that satisfies `wrong`.
bool cased_without(const std::string& text, bool (*wrong)(char32_t)) {
  bool cased = false;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    if (wrong(c.code_point) || is_title_letter(c.code_point)) return false;
    cased = cased || is_cased(c.code_point);
    i += c.num_bytes;
  }
  return cased;
}

JinjaValue string_list(JinjaInterpreter& run, std::vector<std::string> parts) {
  run.charge(parts.size());
  std::vector<JinjaValue> items;
  items.reserve(parts.size());
  for (std::string& part : parts) items.push_back(run.text(std::move(part)));
  return JinjaValue::list(std::move(items));
}

// split() without a separator: runs of white space.
std::vector<std::string> split_space(const std::string& text, int64_t limit) {
  std::vector<std::string> parts;
  size_t i = 0;
  const auto skip = [&] {
    while (i < text.size()) {
      const Utf8Char c = read_utf8(text, i);
      if (!is_python_space(c.code_point)) break;
      i += c.num_bytes;
    }
  };
  skip();
  while (i < text.size()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(text.substr(i));  // the rest keeps its trailing white space
      return parts;
    }
    const size_t begin = i;
    while (i < text.size()) {
      const Utf8Char c = read_utf8(text, i);
      if (is_python_space(c.code_point)) break;
      i += c.num_bytes;
    }
    parts.push_back(text.substr(begin, i - begin));
    skip();
  }
  return parts;
}

std::vector<std::string> split_on(const std::string& text, const std::string& separator,
                                  int64_t limit) {
  if (separator.empty()) throw JinjaError("empty separator");
  std::vector<std::string> parts;
  size_t begin = 0;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t found = find_text(text, separator, begin);
    if (found == kNpos) break;
    parts.push_back(text.substr(begin, found - begin));
    begin = found + separator.size();
  }
  parts.push_back(text.substr(begin));
  return parts;
}

// The last `limit` cuts of all of them; the parts before stay together.
std::vector<std::string> split_right(const std::string& text, const std::string& separator,
                                     int64_t limit) {
  if (separator.empty()) throw JinjaError("empty separator");
  std::vector<std::string> parts;
  size_t end = text.size();
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    if (end < separator.size()) break;
    const size_t found = text.rfind(separator, end - separator.size());
    if (found == kNpos) break;
    parts.push_back(text.substr(found + separator.size(), end - found - separator.size()));
    end = found;
  }
  parts.push_back(text.substr(0, end));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

JinjaValue split(JinjaInterpreter& run, const std::string& text, const JinjaArguments& arguments,
                 bool from_right) {
  const JinjaBinding bound(from_right ? "rsplit" : "split", arguments, {"sep", "maxsplit"});
  const int64_t limit = bound.integer_or(1, -1);
  if (bound.has(0) && !bound.at(0).is_none()) {
    const std::string& separator = bound.string(0);
    return string_list(run, from_right && limit >= 0 ? split_right(text, separator, limit)
                                                     : split_on(text, separator, limit));
  }
  if (from_right && limit >= 0) throw JinjaError("rsplit(None, n) is not supported");
  return string_list(run, split_space(text, limit));
}

JinjaValue strip(JinjaInterpreter& run, const char* name, const std::string& text,
                 const JinjaArguments& arguments, bool left, bool right) {
  const JinjaBinding bound(name, arguments, {"chars"});
  std::optional<std::string> characters;
  if (bound.has(0) && !bound.at(0).is_none()) characters = bound.string(0);
  return run.text(python_strip(text, characters, left, right));
}

JinjaValue starts_or_ends(const char* name, const std::string& text,
                          const JinjaArguments& arguments, bool ends) {
  const JinjaBinding bound(name, arguments, {"prefix"});
  const auto matches = [&](const JinjaValue& value) {
    if (!value.is_string()) {
      throw JinjaError(std::string(name) + " first arg must be str or a tuple of str, not " +
                       value.type_name());
    }
    return ends ? text.ends_with(value.as_string()) : text.starts_with(value.as_string());
  };
  const JinjaValue& what = bound.at(0);
  if (!what.is_tuple()) return JinjaValue::boolean(matches(what));
  return JinjaValue::boolean(std::any_of(what.items().begin(), what.items().end(), matches));
}

// find, rfind, index, rindex: positions by code point.
JinjaValue find(const std::string& name, const std::string& text, const JinjaArguments& arguments) {
  const JinjaBinding bound(name, arguments, {"sub", "start"});
  const std::string& needle = bound.string(0);
  size_t from = 0;
  if (const int64_t start = bound.integer_or(1, 0); start != 0) {
    if (start < 0 || name[0] == 'r')
      throw JinjaError(name + "() with such a start is not supported");
    from = code_point_offset(text, static_cast<size_t>(start));
  }
  const size_t found = name[0] == 'r' ? text.rfind(needle) : find_text(text, needle, from);
  if (found == kNpos) {
    if (name.ends_with("index")) throw JinjaError("substring not found");
    return JinjaValue::integer(-1);
  }
  return JinjaValue::integer(
      static_cast<int64_t>(count_code_points(std::string_view(text).substr(0, found))));
}

JinjaValue count(const std::string& text, const JinjaArguments& arguments) {
  const JinjaBinding bound("count", arguments, {"sub"});
  const std::string& needle = bound.string(0);
  if (needle.empty()) {
    return JinjaValue::integer(static_cast<int64_t>(count_code_points(text)) + 1);
  }
  int64_t total = 0;
  for (size_t at = find_text(text, needle, 0); at != kNpos;
       at = find_text(text, needle, at + needle.size()))
    ++total;
  return JinjaValue::integer(total);
}

JinjaValue join(JinjaInterpreter& run, const std::string& text, const JinjaArguments& arguments) {
  const JinjaBinding bound("join", arguments, {"iterable"});
  std::string out;
  bool first = true;
  for (const JinjaValue& item : run.iterate(bound.at(0))) {
    if (!item.is_string()) {
      throw JinjaError(std::string("join: expected str, ") + item.type_name() + " found");
    }
    if (!first) out += text;
    first = false;
    out += item.as_string();
    if (out.size() > run.max_bytes()) break;  // text() reports it
  }
  return run.text(std::move(out));
}

JinjaValue partition(JinjaInterpreter& run, const char* name, const std::string& text,
                     const JinjaArguments& arguments, bool from_right) {
  const JinjaBinding bound(name, arguments, {"sep"});
  const std::string& separator = bound.string(0);
  if (separator.empty()) throw JinjaError("empty separator");
  const size_t found = from_right ? text.rfind(separator) : find_text(text, separator, 0);
  const JinjaValue empty = JinjaValue::string("");
  if (found == kNpos) {
    const JinjaValue whole = run.text(text);
    return from_right ? JinjaValue::tuple({empty, empty, whole})
                      : JinjaValue::tuple({whole, empty, empty});
  }
  return JinjaValue::tuple({run.text(text.substr(0, found)), run.text(separator),
                            run.text(text.substr(found + separator.size()))});
}

JinjaValue split_lines(JinjaInterpreter& run, const std::string& text,
                       const JinjaArguments& arguments) {
  const JinjaBinding bound("splitlines", arguments, {"keepends"});
  const bool keep = bound.truth_or(0, false);
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    const size_t here = i;
    i += c.num_bytes;
    const bool breaks = (c.code_point >= 0x0A && c.code_point <= 0x0D) ||
                        (c.code_point >= 0x1C && c.code_point <= 0x1E) || c.code_point == 0x85 ||
                        c.code_point == 0x2028 || c.code_point == 0x2029;
    if (!breaks) continue;
    if (c.code_point == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.push_back(text.substr(begin, (keep ? i : here) - begin));
    begin = i;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return string_list(run, std::move(lines));
}

// ljust, rjust, center, zfill.
JinjaValue pad(JinjaInterpreter& run, const std::string& name, const std::string& text,
               const JinjaArguments& arguments) {
  const JinjaBinding bound(name, arguments, {"width", "fillchar"});
  bound.at(0);
  const std::string fill = name == "zfill" ? "0" : bound.string_or(1, " ");
  if (count_code_points(fill) != 1) {
    throw JinjaError("the fill character must be exactly one character long");
  }
  const auto length = static_cast<int64_t>(count_code_points(text));
  const int64_t missing = bound.integer_or(0, 0) - length;
  if (missing <= 0) return run.text(text);
  if (missing > static_cast<int64_t>(run.max_bytes() / fill.size())) {
    throw JinjaError(name + "(): the result is too long");
  }
  // Python's center puts the odd one to the left when the width is odd.
  const int64_t width = length + missing;
  const int64_t left = name == "ljust"    ? 0
                       : name == "center" ? missing / 2 + (missing & width & 1)
                                          : missing;
  std::string out;
  std::string_view body = text;
  if (name == "zfill" && (body.starts_with('-') || body.starts_with('+'))) {
    out += body[0];
    body.remove_prefix(1);
  }
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += body;
  for (int64_t i = left; i < missing; ++i) out += fill;
  return run.text(std::move(out));
}

// {}, {0}, {name} without conversions and format specifications.
JinjaValue format(JinjaInterpreter& run, const std::string& text, const JinjaArguments& arguments) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c != '{' && c != '}') {
      out += c;
      continue;
    }
    if (i + 1 < text.size() && text[i + 1] == c) {
      out += c;
      ++i;
      continue;
    }
    const size_t close = text.find('}', i);
    if (c == '}' || close == kNpos) throw JinjaError("single brace in format string");
    const std::string field = text.substr(i + 1, close - i - 1);
    if (field.find_first_of(":!.[{") != kNpos) {
      throw JinjaError("format field '" + field + "' is not supported");
    }
    const bool digits =
        std::all_of(field.begin(), field.end(), [](char d) { return d >= '0' && d <= '9'; });
    if (digits) {
      if (field.size() > 6) throw JinjaError("format index out of range");
      const size_t index = field.empty() ? next++ : static_cast<size_t>(std::stoi(field));
      if (index >= arguments.positional.size()) throw JinjaError("format index out of range");
      out += run.str(arguments.positional[index]);
    } else {
      const auto found = std::find_if(arguments.named.begin(), arguments.named.end(),
                                      [&](const auto& named) { return named.first == field; });
      if (found == arguments.named.end())
        throw JinjaError("format has no argument '" + field + "'");
      out += run.str(found->second);
    }
    i = close;
  }
  return run.text(std::move(out));
}

std::string swap_case(char32_t c) {
  std::string out;
  if (is_upper_letter(c)) {
    append_utf8(out, to_lower_simple(c));
  } else {
    append_upper(out, c);
  }
  return out;
}

void no_arguments(const std::string& name, const JinjaArguments& arguments) {
  const JinjaBinding none(name, arguments, {});
}

}  // namespace

size_t find_text(std::string_view text, std::string_view needle, size_t from) {
  if (needle.size() <= 32) return text.find(needle, from);
  if (from > text.size()) return kNpos;
  std::vector<size_t> borders(needle.size(), 0);
  for (size_t i = 1, border = 0; i < needle.size(); ++i) {
    while (border > 0 && needle[i] != needle[border]) border = borders[border - 1];
    if (needle[i] == needle[border]) ++border;
    borders[i] = border;
  }
  for (size_t i = from, matched = 0; i < text.size(); ++i) {
    while (matched > 0 && text[i] != needle[matched]) matched = borders[matched - 1];
    if (text[i] == needle[matched]) ++matched;
    if (matched == needle.size()) return i + 1 - needle.size();
  }
  return kNpos;
}

std::string python_strip(std::string_view text, const std::optional<std::string>& characters,
                         bool left, bool right) {
  const auto strips = [&](size_t begin, size_t length) {
    if (!characters) return is_python_space(read_utf8(text, begin).code_point);
    return characters->find(text.substr(begin, length)) != std::string::npos;
  };
  size_t begin = 0;
  while (left && begin < text.size()) {
    const size_t length = read_utf8(text, begin).num_bytes;
    if (!strips(begin, length)) break;
    begin += length;
  }
  size_t end = text.size();
  while (right && end > begin) {
    size_t previous = end - 1;
    while (previous > begin && (static_cast<unsigned char>(text[previous]) & 0xC0U) == 0x80U)
      --previous;
    if (!strips(previous, end - previous)) break;
    end = previous;
  }
  return std::string(text.substr(begin, end - begin));
}

std::string python_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    append_upper(out, c.code_point);
    i += c.num_bytes;
  }
  return out;
}

std::string python_lower(std::string_view text) { return lowercase_unicode(text); }

std::string python_title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    append_utf8(out, in_word ? to_lower_simple(c.code_point) : to_upper_simple(c.code_point));
    in_word = is_cased(c.code_point);
    i += c.num_bytes;
  }
  return out;
}

std::string python_capitalize(std::string_view text) {
  if (text.empty()) return {};
  const Utf8Char first = read_utf8(text, 0);
  std::string out;
  append_utf8(out, to_upper_simple(first.code_point));
  return out + lowercase_unicode(text.substr(first.num_bytes));
}

std::string python_replace(JinjaInterpreter& run, std::string_view text, std::string_view from,
                           std::string_view to, int64_t count) {
  std::string out;
  size_t position = 0;
  int64_t done = 0;
  const auto wants_more = [&] { return count < 0 || done < count; };
  if (from.empty()) {  // before every character and at the end
    while (true) {
      if (wants_more()) {
        out += to;
        ++done;
      }
      if (position >= text.size()) break;
      const size_t length = read_utf8(text, position).num_bytes;
      out += text.substr(position, length);
      position += length;
      if (out.size() > run.max_bytes()) break;
    }
    return run.made(std::move(out));
  }
  while (wants_more() && out.size() <= run.max_bytes()) {
    const size_t found = find_text(text, from, position);
    if (found == kNpos) break;
    out += text.substr(position, found - position);
    out += to;
    position = found + from.size();
    ++done;
  }
  out += text.substr(position);
  return run.made(std::move(out));
}

JinjaValue call_jinja_string_method(JinjaInterpreter& run, const std::string& text,
                                    const std::string& name, const JinjaArguments& arguments) {
  if (name == "strip") return strip(run, "strip", text, arguments, true, true);
  if (name == "lstrip") return strip(run, "lstrip", text, arguments, true, false);
  if (name == "rstrip") return strip(run, "rstrip", text, arguments, false, true);
  if (name == "split") return split(run, text, arguments, false);
  if (name == "rsplit") return split(run, text, arguments, true);
  if (name == "startswith") return starts_or_ends("startswith", text, arguments, false);
  if (name == "endswith") return starts_or_ends("endswith", text, arguments, true);
  if (name == "find" || name == "rfind" || name == "index" || name == "rindex") {
    return find(name, text, arguments);
  }
  if (name == "count") return count(text, arguments);
  if (name == "join") return join(run, text, arguments);
  if (name == "partition") return partition(run, "partition", text, arguments, false);
  if (name == "rpartition") return partition(run, "rpartition", text, arguments, true);
  if (name == "splitlines") return split_lines(run, text, arguments);
  if (name == "ljust" || name == "rjust" || name == "center" || name == "zfill") {
    return pad(run, name, text, arguments);
  }
  if (name == "format") return format(run, text, arguments);
  if (name == "replace") {
    const JinjaBinding bound(name, arguments, {"old", "new", "count"});
    return JinjaValue::string(
        python_replace(run, text, bound.string(0), bound.string(1), bound.integer_or(2, -1)));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const JinjaBinding bound(name, arguments, {"affix"});
    const std::string& affix = bound.string(0);
    std::string_view rest = text;
    if (name == "removeprefix" && rest.starts_with(affix)) rest.remove_prefix(affix.size());
    if (name == "removesuffix" && rest.ends_with(affix)) rest.remove_suffix(affix.size());
    return run.text(std::string(rest));
  }
  static const std::unordered_map<std::string_view, Method> kPlain = {
      {"upper", [](JinjaInterpreter& r, const std::string& t,
                   const JinjaArguments&) { return r.text(python_upper(t)); }},
      {"lower", [](JinjaInterpreter& r, const std::string& t,
                   const JinjaArguments&) { return r.text(python_lower(t)); }},
      {"casefold",
       [](JinjaInterpreter& r, const std::string& t, const JinjaArguments&) {
         return r.text(map_characters(t, to_lower_simple));
       }},
      {"title", [](JinjaInterpreter& r, const std::string& t,
                   const JinjaArguments&) { return r.text(python_title(t)); }},
      {"capitalize", [](JinjaInterpreter& r, const std::string& t,
                        const JinjaArguments&) { return r.text(python_capitalize(t)); }},
      {"swapcase",
       [](JinjaInterpreter& r, const std::string& t, const JinjaArguments&) {
         std::string out;
         for (size_t i = 0; i < t.size(); i += read_utf8(t, i).num_bytes)
           out += swap_case(read_utf8(t, i).code_point);
         return r.text(std::move(out));
       }},
      {"isspace",
       [](JinjaInterpreter&, const std::string& t, const JinjaArguments&) {
         return JinjaValue::boolean(all_characters(t, is_python_space));
       }},
      {"isdigit",
       [](JinjaInterpreter&, const std::string& t, const JinjaArguments&) {
         return JinjaValue::boolean(all_characters(t, is_decimal_digit));
       }},
      {"isdecimal",
       [](JinjaInterpreter&, const std::string& t, const JinjaArguments&) {
         return JinjaValue::boolean(all_characters(t, is_decimal_digit));
       }},
      {"isnumeric",
       [](JinjaInterpreter&, const std::string& t, const JinjaArguments&) {
         return JinjaValue::boolean(all_characters(t, is_numeric));
       }},
      {"isalpha",
       [](JinjaInterpreter&, const std::string& t, const JinjaArguments&) {
         return JinjaValue::boolean(all_characters(t, is_letter));
       }},
      {"isalnum",
       [](JinjaInterpreter&, const std::string& t, const JinjaArguments&) {
         return JinjaValue::boolean(
             all_characters(t, [](char32_t c) { return is_letter(c) || is_numeric(c); }));
       }},
      {"isascii",
       [](JinjaInterpreter&, const std::string& t, const JinjaArguments&) {
         return JinjaValue::boolean(t.empty() ||
                                    all_characters(t, [](char32_t c) { return c < 0x80; }));
       }},
      {"isupper",
       [](JinjaInterpreter&, const std::string& t, const JinjaArguments&) {
         return JinjaValue::boolean(cased_without(t, is_lower_letter));
       }},
      {"islower",
       [](JinjaInterpreter&, const std::string& t, const JinjaArguments&) {
         return JinjaValue::boolean(cased_without(t, is_upper_letter));
       }},
  };
  const auto found = kPlain.find(name);
  if (found == kPlain.end()) throw JinjaError("str method '" + name + "' is not supported");
  no_arguments(name, arguments);
  return found->second(run, text, arguments);
}

}  // namespace phalanx
