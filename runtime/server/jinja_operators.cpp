// Python's operators on template values: arithmetic, order, membership, slices.
// Called by the interpreter and by filters.
#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/server/jinja_builtins.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

[[noreturn]] void fail_operands(std::string_view op, const JinjaValue& left,
                                const JinjaValue& right) {
  for (const JinjaValue* value : {&left, &right})
    if (value->is_undefined()) throw JinjaError(value->undefined_message());
  throw JinjaError("unsupported operand type(s) for " + std::string(op) + ": '" + left.type_name() +
                   "' and '" + right.type_name() + "'");
}

[[noreturn]] void fail_overflow() { throw JinjaError("integer of more than 64 bits"); }

int64_t floor_divide(int64_t left, int64_t right) {
  if (right == 0) throw JinjaError("division by zero");
  if (left == std::numeric_limits<int64_t>::min() && right == -1) fail_overflow();
  const int64_t quotient = left / right;
  return (left % right != 0 && (left < 0) != (right < 0)) ? quotient - 1 : quotient;
}

int64_t floor_modulo(int64_t left, int64_t right) {
  if (right == 0) throw JinjaError("integer modulo by zero");
  if (right == -1) return 0;
  const int64_t rest = left % right;
  return rest != 0 && (rest < 0) != (right < 0) ? rest + right : rest;
}

JinjaValue integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    return JinjaValue::real(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail_overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
  }
  return JinjaValue::integer(result);
}

JinjaValue integer_arithmetic(std::string_view op, int64_t left, int64_t right) {
  int64_t result = 0;
  if (op == "+") {
    if (__builtin_add_overflow(left, right, &result)) fail_overflow();
  } else if (op == "-") {
    if (__builtin_sub_overflow(left, right, &result)) fail_overflow();
  } else if (op == "*") {
    if (__builtin_mul_overflow(left, right, &result)) fail_overflow();
  } else if (op == "/") {
    if (right == 0) throw JinjaError("division by zero");
    return JinjaValue::real(static_cast<double>(left) / static_cast<double>(right));
  } else if (op == "//") {
    result = floor_divide(left, right);
  } else if (op == "%") {
    result = floor_modulo(left, right);
  } else {
    return integer_power(left, right);
  }
  return JinjaValue::integer(result);
}

JinjaValue float_arithmetic(std::string_view op, double left, double right) {
  if (op == "+") return JinjaValue::real(left + right);
  if (op == "-") return JinjaValue::real(left - right);
  if (op == "*") return JinjaValue::real(left * right);
  if (op == "**") return JinjaValue::real(std::pow(left, right));
  if (right == 0.0) throw JinjaError("float division by zero");
  if (op == "/") return JinjaValue::real(left / right);
  if (op == "//") return JinjaValue::real(std::floor(left / right));
  const double rest = std::fmod(left, right);
  return JinjaValue::real(rest != 0.0 && (rest < 0) != (right < 0) ? rest + right : rest);
}

JinjaValue repeat(JinjaInterpreter& run, const JinjaValue& value, int64_t count) {
  const auto times = static_cast<size_t>(std::max<int64_t>(count, 0));
  if (value.is_string()) {
    const std::string& text = value.as_string();
    if (!text.empty() && times > run.max_bytes() / text.size()) {
      throw JinjaError("a string of more than " + std::to_string(run.max_bytes()) + " bytes");
    }
    run.charge(times);
    std::string out;
    out.reserve(text.size() * times);
    for (size_t i = 0; i < times; ++i) out += text;
    return run.text(std::move(out));
  }
  if (value.items().empty()) return value;
  if (times > 10'000'000) throw JinjaError("a list of too many items");
  run.charge(times * value.items().size());
  std::vector<JinjaValue> items;
  for (size_t i = 0; i < times; ++i)
    items.insert(items.end(), value.items().begin(), value.items().end());
  return value.is_tuple() ? JinjaValue::tuple(std::move(items))
                          : JinjaValue::list(std::move(items));
}

// "..." % values: %s, %r, %d, %i, %f with a precision, %%.
JinjaValue format_percent(JinjaInterpreter& run, const std::string& format,
                          const JinjaValue& values) {
  const std::vector<JinjaValue> arguments =
      values.is_tuple() ? values.items() : std::vector<JinjaValue>{values};
  std::string out;
  size_t used = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    if (++i >= format.size()) throw JinjaError("incomplete format");
    if (format[i] == '%') {
      out += '%';
      continue;
    }
    int precision = 6;
    if (format[i] == '.' && i + 2 < format.size() && format[i + 1] >= '0' && format[i + 1] <= '9') {
      precision = format[i + 1] - '0';
      i += 2;
    }
    if (used >= arguments.size()) throw JinjaError("not enough arguments for format string");
    const JinjaValue& value = arguments[used++];
    if (format[i] == 's') {
      out += run.str(value);
    } else if (format[i] == 'r') {
      out += run.made(jinja_repr(value, run.max_bytes()));
    } else if ((format[i] == 'd' || format[i] == 'i') && value.is_number()) {
      if (value.is_float() && std::abs(value.as_float()) > 9e18) fail_overflow();
      out += std::to_string(value.is_float() ? static_cast<int64_t>(value.as_float())
                                             : value.as_int());
    } else if (format[i] == 'f' && value.is_number()) {
      char buffer[400];
      std::snprintf(buffer, sizeof(buffer), "%.*f", precision, value.as_float());
      out += buffer;
    } else {
      throw JinjaError(std::string("format %") + format[i] + " of a " + value.type_name() +
                       " is not supported");
    }
  }
  if (used < arguments.size()) {
    throw JinjaError("not all arguments converted during string formatting");
  }
  return run.text(std::move(out));
}

}  // namespace

JinjaValue jinja_binary(JinjaInterpreter& run, std::string_view op, const JinjaValue& left,
                        const JinjaValue& right) {
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) {
      return float_arithmetic(op, left.as_float(), right.as_float());
    }
    return integer_arithmetic(op, left.as_int(), right.as_int());
  }
  if (op == "+" && left.is_string() && right.is_string()) {
    return run.text(left.as_string() + right.as_string());
  }
  if (op == "+" && left.is_sequence() && right.is_sequence() &&
      left.is_tuple() == right.is_tuple()) {
    run.charge(left.items().size() + right.items().size());
    std::vector<JinjaValue> items = left.items();
    items.insert(items.end(), right.items().begin(), right.items().end());
    return left.is_tuple() ? JinjaValue::tuple(std::move(items))
                           : JinjaValue::list(std::move(items));
  }
  const auto repeatable = [](const JinjaValue& value) {
    return value.is_string() || value.is_sequence();
  };
  const auto is_count = [](const JinjaValue& value) { return value.is_int() || value.is_bool(); };
  if (op == "*" && repeatable(left) && is_count(right)) return repeat(run, left, right.as_int());
  if (op == "*" && is_count(left) && repeatable(right)) return repeat(run, right, left.as_int());
  if (op == "%" && left.is_string()) return format_percent(run, left.as_string(), right);
  fail_operands(op, left, right);
}

bool jinja_less(const JinjaValue& left, const JinjaValue& right, uint64_t& budget) {
  if (budget == 0) throw JinjaError("comparing takes too many steps");
  --budget;
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) return left.as_float() < right.as_float();
    return left.as_int() < right.as_int();
  }
  // Order of code points is the order of bytes in UTF-8.
  if (left.is_string() && right.is_string()) return left.as_string() < right.as_string();
  if (left.is_sequence() && right.is_sequence() && left.is_tuple() == right.is_tuple()) {
    const auto& a = left.items();
    const auto& b = right.items();
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (!jinja_equal(a[i], b[i], budget)) return jinja_less(a[i], b[i], budget);
    return a.size() < b.size();
  }
  fail_operands("<", left, right);
}

bool jinja_contains(JinjaInterpreter& run, const JinjaValue& container, const JinjaValue& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      throw JinjaError(std::string("'in <string>' requires string as left operand, not ") +
                       item.type_name());
    }
    run.charge(1 + container.as_string().size() / 64);
    return find_text(container.as_string(), item.as_string(), 0) != std::string_view::npos;
  }
  if (container.is_dict()) return container.as_dict().find(item) != nullptr;
  if (container.is_undefined()) return false;
  if (!container.is_sequence()) {
    throw JinjaError(std::string("argument of type '") + container.type_name() +
                     "' is not iterable");
  }
  return std::any_of(container.items().begin(), container.items().end(),
                     [&](const JinjaValue& each) { return jinja_equal(each, item, run.budget()); });
}

JinjaValue jinja_slice(JinjaInterpreter& run, const JinjaValue& value, const JinjaValue& start,
                       const JinjaValue& stop, const JinjaValue& step) {
  if (!value.is_string() && !value.is_sequence()) {
    return JinjaValue::undefined(std::string("'") + value.type_name() +
                                 "' object is not subscriptable");
  }
  const auto bound = [](const JinjaValue& part, int64_t otherwise) {
    if (part.is_none()) return otherwise;
    if (!part.is_int() && !part.is_bool()) {
      throw JinjaError("slice indices must be integers or None");
    }
    return part.as_int();
  };
  const int64_t stride = bound(step, 1);
  if (stride == 0) throw JinjaError("slice step cannot be zero");
  if (value.is_string()) run.charge(value.as_string().size() / 64);
  const auto count = static_cast<int64_t>(value.is_string() ? count_code_points(value.as_string())
                                                            : value.items().size());
  // Ends as Python clamps them: 0..count forwards, -1..count-1 backwards.
  const int64_t lowest = stride > 0 ? 0 : -1;
  const int64_t highest = stride > 0 ? count : count - 1;
  const auto clamp = [&](int64_t index) {
    return std::clamp(index < 0 ? std::max(index + count, int64_t{-1}) : index, lowest, highest);
  };
  const int64_t first = start.is_none() ? (stride > 0 ? 0 : count - 1) : clamp(bound(start, 0));
  const int64_t last = stop.is_none() ? (stride > 0 ? count : -1) : clamp(bound(stop, 0));

  if (value.is_string() && stride == 1) {
    const std::string& text = value.as_string();
    if (first >= last) return JinjaValue::string("");
    const size_t begin = code_point_offset(text, static_cast<size_t>(first));
    const size_t length =
        code_point_offset(std::string_view(text).substr(begin), static_cast<size_t>(last - first));
    return run.text(text.substr(begin, length));
  }
  const std::vector<JinjaValue> all = value.is_string() ? run.iterate(value) : value.items();
  std::vector<JinjaValue> items;
  std::string text;
  for (int64_t i = first; stride > 0 ? i < last : i > last;) {
    run.charge(1);
    if (value.is_string()) {
      text += all[static_cast<size_t>(i)].as_string();
    } else {
      items.push_back(all[static_cast<size_t>(i)]);
    }
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (value.is_string()) return run.text(std::move(text));
  return value.is_tuple() ? JinjaValue::tuple(std::move(items))
                          : JinjaValue::list(std::move(items));
}

}  // namespace phalanx
