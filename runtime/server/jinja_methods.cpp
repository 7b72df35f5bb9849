// Methods of dicts and lists, and which attributes Python's types have.
// Called by the interpreter.
#include <algorithm>
#include <array>

#include "runtime/server/jinja_builtins.h"

namespace phalanx {
namespace {

constexpr std::array<std::string_view, 47> kStringMethods = {
    "capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
    "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
    "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
    "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
    "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
    "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
    "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
    "swapcase",     "title",       "translate", "upper",      "zfill"};
constexpr std::array<std::string_view, 6> kDictMethods = {"copy",  "fromkeys", "get",
                                                          "items", "keys",     "values"};
constexpr std::array<std::string_view, 5> kUnsafeDictMethods = {"clear", "pop", "popitem",
                                                                "setdefault", "update"};
constexpr std::array<std::string_view, 3> kListMethods = {"copy", "count", "index"};
constexpr std::array<std::string_view, 8> kUnsafeListMethods = {
    "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"};
constexpr std::array<std::string_view, 2> kTupleMethods = {"count", "index"};

template <size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

JinjaValue call_dict_method(JinjaInterpreter& run, const JinjaValue& receiver,
                            const std::string& name, const JinjaArguments& arguments) {
  const JinjaDict& dict = receiver.as_dict();
  if (name == "get") {
    const JinjaBinding bound(name, arguments, {"key", "default"});
    if (const JinjaValue* found = dict.find(bound.at(0))) return *found;
    return bound.has(1) ? bound.at(1) : JinjaValue::none();
  }
  const JinjaBinding none(name, arguments, {});
  if (name == "copy") return receiver;
  if (name == "fromkeys") throw JinjaError("dict.fromkeys is not supported");
  run.charge(dict.size());
  std::vector<JinjaValue> items;
  items.reserve(dict.size());
  for (const auto& [key, value] : dict.entries()) {
    items.push_back(name == "keys"     ? key
                    : name == "values" ? value
                                       : JinjaValue::tuple({key, value}));
  }
  return JinjaValue::list(std::move(items));
}

JinjaValue call_list_method(JinjaInterpreter& run, const JinjaValue& receiver,
                            const std::string& name, const JinjaArguments& arguments) {
  if (name == "copy") {
    const JinjaBinding none(name, arguments, {});
    return receiver;
  }
  const JinjaBinding bound(name, arguments, {"value"});
  int64_t count = 0;
  int64_t index = 0;
  for (const JinjaValue& item : receiver.items()) {
    if (jinja_equal(item, bound.at(0), run.budget())) {
      if (name == "index") return JinjaValue::integer(index);
      ++count;
    }
    ++index;
  }
  if (name == "index") throw JinjaError("value is not in list");
  return JinjaValue::integer(count);
}

}  // namespace

JinjaMethodStatus find_jinja_method(const JinjaValue& value, std::string_view name) {
  bool available = false;
  bool unsafe = false;
  if (value.is_string()) {
    available = contains(kStringMethods, name);
  } else if (value.is_dict()) {
    available = contains(kDictMethods, name);
    unsafe = contains(kUnsafeDictMethods, name);
  } else if (value.is_tuple()) {
    available = contains(kTupleMethods, name);
  } else if (value.is_sequence()) {
    available = contains(kListMethods, name);
    unsafe = contains(kUnsafeListMethods, name);
  }
  return available ? JinjaMethodStatus::kAvailable
                   : (unsafe ? JinjaMethodStatus::kUnsafe : JinjaMethodStatus::kNone);
}

JinjaValue call_jinja_method(JinjaInterpreter& run, const JinjaValue& receiver,
                             const std::string& name, const JinjaArguments& arguments) {
  if (receiver.is_string()) {
    run.charge(1 + receiver.as_string().size() / 64);
    return call_jinja_string_method(run, receiver.as_string(), name, arguments);
  }
  if (receiver.is_dict()) return call_dict_method(run, receiver, name, arguments);
  return call_list_method(run, receiver, name, arguments);
}

}  // namespace phalanx
