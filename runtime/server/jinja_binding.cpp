// Arguments of built-ins matched to parameter names, and the global functions.
// Called by filters, tests, methods and the interpreter.
#include <algorithm>
#include <array>
#include <ctime>

#include "runtime/server/jinja_builtins.h"

namespace phalanx {
namespace {

constexpr int64_t kMaxRange = 100'000;  // jinja2's sandbox has the same
constexpr std::array<std::string_view, 5> kFunctions = {"range", "namespace", "dict",
                                                        "raise_exception", "strftime_now"};

JinjaValue make_range(JinjaInterpreter& run, const JinjaArguments& arguments) {
  const auto& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.named.empty()) {
    throw JinjaError("range expects 1 to 3 arguments");
  }
  for (const JinjaValue& value : given) {
    if (value.is_undefined()) throw JinjaError(value.undefined_message());
    if (!value.is_int() && !value.is_bool()) {
      throw JinjaError(std::string("'") + value.type_name() +
                       "' object cannot be interpreted as an integer");
    }
  }
  const int64_t start = given.size() > 1 ? given[0].as_int() : 0;
  const int64_t stop = given.size() > 1 ? given[1].as_int() : given[0].as_int();
  const int64_t step = given.size() > 2 ? given[2].as_int() : 1;
  if (step == 0) throw JinjaError("range() arg 3 must not be zero");
  std::vector<JinjaValue> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange) {
      throw JinjaError("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
    }
    items.push_back(JinjaValue::integer(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  run.charge(items.size());
  return JinjaValue::list(std::move(items));
}

JinjaDict make_dict(JinjaInterpreter& run, const JinjaArguments& arguments) {
  JinjaDict dict;
  if (arguments.positional.size() > 1) throw JinjaError("dict expected at most 1 argument");
  if (!arguments.positional.empty()) {
    const JinjaValue& source = arguments.positional[0];
    if (source.is_dict()) {
      run.charge(source.as_dict().size());
      dict = source.as_dict();
    } else {
      for (const JinjaValue& pair : run.iterate(source)) {
        const std::vector<JinjaValue> parts = run.iterate(pair);
        if (parts.size() != 2) throw JinjaError("dict: every item must be a pair");
        dict.set(parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) dict.set(name, value);
  return dict;
}

JinjaValue format_now(JinjaInterpreter& run, const JinjaArguments& arguments) {
  const JinjaBinding bound("strftime_now", arguments, {"format"});
  const std::string& format = bound.string(0);
  if (format.empty()) return JinjaValue::string("");
  if (format.size() > 1024) throw JinjaError("strftime_now: format of more than 1024 bytes");
  const std::time_t seconds = run.now().time_since_epoch().count();
  std::tm fields{};
  gmtime_r(&seconds, &fields);
  // A leading mark tells an empty result from one that does not fit.
  std::array<char, 8192> buffer{};
  const size_t length =
      std::strftime(buffer.data(), buffer.size(), ("x" + format).c_str(), &fields);
  if (length == 0) throw JinjaError("strftime_now: the result is too long");
  return run.text(std::string(buffer.data() + 1, length - 1));
}

}  // namespace

JinjaBinding::JinjaBinding(std::string_view function, const JinjaArguments& arguments,
                           std::initializer_list<std::string_view> names)
    : function_(function), names_(names), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names_.size()) {
    throw JinjaError(function_ + "() takes at most " + std::to_string(names_.size()) +
                     " argument(s), got " + std::to_string(arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(names_.begin(), names_.end(), name);
    if (found == names_.end()) {
      throw JinjaError(function_ + "() got an unexpected keyword argument '" + name + "'");
    }
    const auto index = static_cast<size_t>(found - names_.begin());
    if (values_[index] != nullptr) {
      throw JinjaError(function_ + "() got multiple values for argument '" + name + "'");
    }
    values_[index] = &value;
  }
}

const JinjaValue& JinjaBinding::at(size_t index) const {
  if (!has(index)) {
    throw JinjaError(function_ + "() missing argument '" + std::string(names_[index]) + "'");
  }
  return *values_[index];
}

bool JinjaBinding::truth_or(size_t index, bool otherwise) const {
  return has(index) ? jinja_truth(*values_[index]) : otherwise;
}

int64_t JinjaBinding::integer_or(size_t index, int64_t otherwise) const {
  if (!has(index)) return otherwise;
  const JinjaValue& value = *values_[index];
  if (!value.is_int() && !value.is_bool()) {
    throw JinjaError(function_ + "(): " + std::string(names_[index]) + " must be an int, not " +
                     value.type_name());
  }
  return value.as_int();
}

const std::string& JinjaBinding::string(size_t index) const {
  const JinjaValue& value = at(index);
  if (!value.is_string()) {
    throw JinjaError(function_ + "(): " + std::string(names_[index]) + " must be a str, not " +
                     value.type_name());
  }
  return value.as_string();
}

std::string JinjaBinding::string_or(size_t index, const std::string& otherwise) const {
  return has(index) ? string(index) : otherwise;
}

bool has_jinja_function(std::string_view name) {
  return std::find(kFunctions.begin(), kFunctions.end(), name) != kFunctions.end();
}

JinjaValue call_jinja_function(JinjaInterpreter& run, const std::string& name,
                               const JinjaArguments& arguments) {
  if (name == "range") return make_range(run, arguments);
  if (name == "dict") return JinjaValue::dict(make_dict(run, arguments));
  if (name == "strftime_now") return format_now(run, arguments);
  if (name == "namespace") {
    JinjaDict attributes = make_dict(run, arguments);
    for (const auto& entry : attributes.entries()) {
      if (entry.first.is_string() && entry.first.as_string().starts_with('_')) {
        throw JinjaError("attribute '" + entry.first.as_string() +
                         "' of a namespace begins with '_'");
      }
    }
    return run.new_namespace(std::move(attributes));
  }
  const JinjaBinding bound("raise_exception", arguments, {"message"});
  throw JinjaError(run.str(bound.at(0)));
}

}  // namespace phalanx
