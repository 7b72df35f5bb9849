// The built-in filters, tests, methods and functions of the template language.
// Called by the interpreter.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/server/jinja_interpreter.h"
#include "runtime/server/jinja_value.h"

namespace phalanx {

/// Arguments matched to parameter names, as Python does. Refers to the arguments: keep them.
class JinjaBinding {
 public:
  /// Throws JinjaError for too many, unknown or repeated arguments.
  JinjaBinding(std::string_view function, const JinjaArguments& arguments,
               std::initializer_list<std::string_view> names);

  bool has(size_t index) const { return values_[index] != nullptr; }
  /// Throws when the argument is missing.
  const JinjaValue& at(size_t index) const;
  bool truth_or(size_t index, bool otherwise) const;
  /// Throws when it is there and not an int.
  int64_t integer_or(size_t index, int64_t otherwise) const;
  const std::string& string(size_t index) const;
  std::string string_or(size_t index, const std::string& otherwise) const;

 private:
  std::string function_;
  std::vector<std::string_view> names_;
  std::vector<const JinjaValue*> values_;
};

/// value | name(arguments). Throws JinjaError for an unknown filter.
JinjaValue apply_jinja_filter(JinjaInterpreter& run, std::string_view name, const JinjaValue& value,
                              const JinjaArguments& arguments);
bool has_jinja_filter(std::string_view name);

/// value is name(arguments). Throws JinjaError for an unknown test.
bool apply_jinja_test(JinjaInterpreter& run, std::string_view name, const JinjaValue& value,
                      const JinjaArguments& arguments);
bool has_jinja_test(std::string_view name);

/// Whether Python's type of `value` has this method; kUnsafe ones change the object.
enum class JinjaMethodStatus { kNone, kAvailable, kUnsafe };
JinjaMethodStatus find_jinja_method(const JinjaValue& value, std::string_view name);
JinjaValue call_jinja_method(JinjaInterpreter& run, const JinjaValue& receiver,
                             const std::string& name, const JinjaArguments& arguments);
/// Of a str; throws when it is not implemented.
JinjaValue call_jinja_string_method(JinjaInterpreter& run, const std::string& text,
                                    const std::string& name, const JinjaArguments& arguments);

/// range, namespace, dict, raise_exception, strftime_now.
bool has_jinja_function(std::string_view name);
JinjaValue call_jinja_function(JinjaInterpreter& run, const std::string& name,
                               const JinjaArguments& arguments);

/// Python's binary operators + - * / // % **.
JinjaValue jinja_binary(JinjaInterpreter& run, std::string_view op, const JinjaValue& left,
                        const JinjaValue& right);
/// Python's < for two values; throws when they have no order, or the budget is used up.
bool jinja_less(const JinjaValue& left, const JinjaValue& right, uint64_t& budget);
/// Python's `item in container`.
bool jinja_contains(JinjaInterpreter& run, const JinjaValue& container, const JinjaValue& item);
/// Python's value[start:stop:step] with None for the ends left out.
JinjaValue jinja_slice(JinjaInterpreter& run, const JinjaValue& value, const JinjaValue& start,
                       const JinjaValue& stop, const JinjaValue& step);

/// Position of `needle` at or behind `from`, or npos. Linear, whatever the texts.
size_t find_text(std::string_view text, std::string_view needle, size_t from);

/// Python's str methods that filters share.
std::string python_strip(std::string_view text, const std::optional<std::string>& characters,
                         bool left, bool right);
std::string python_upper(std::string_view text);
std::string python_lower(std::string_view text);
std::string python_title(std::string_view text);
std::string python_capitalize(std::string_view text);
std::string python_replace(JinjaInterpreter& run, std::string_view text, std::string_view from,
                           std::string_view to, int64_t count);

}  // namespace phalanx
