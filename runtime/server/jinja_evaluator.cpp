// Evaluates the expressions of a parsed template.
// Called by the interpreter's statements.
#include <algorithm>

#include "runtime/server/jinja_builtins.h"
#include "runtime/server/jinja_depth.h"
#include "runtime/server/jinja_interpreter.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

[[noreturn]] void fail_undefined(const JinjaValue& value) {
  throw JinjaError(value.undefined_message());
}

std::string object_name(const JinjaValue& value) {
  if (value.is_none()) return "None";
  return std::string("'") + value.type_name() + " object'";
}

}  // namespace

JinjaValue JinjaInterpreter::evaluate(const JinjaExpression& node, const ScopePointer& scope) {
  const JinjaDepth depth(depth_);
  charge(1);
  try {
    return evaluate_node(node, scope);
  } catch (JinjaError& error) {
    if (error.line == 0) error.line = node.line;
    throw;
  }
}

JinjaValue JinjaInterpreter::evaluate_node(const JinjaExpression& node, const ScopePointer& scope) {
  using Kind = JinjaExpression::Kind;
  switch (node.kind) {
    case Kind::kConstant:
      return node.value;
    case Kind::kName:
      return evaluate_name(node, scope);
    case Kind::kList:
    case Kind::kTuple: {
      std::vector<JinjaValue> items;
      items.reserve(node.children.size());
      for (const auto& child : node.children) items.push_back(evaluate(*child, scope));
      return node.kind == Kind::kList ? JinjaValue::list(std::move(items))
                                      : JinjaValue::tuple(std::move(items));
    }
    case Kind::kDict: {
      JinjaDict dict;
      for (size_t i = 0; i + 1 < node.children.size(); i += 2) {
        JinjaValue key = evaluate(*node.children[i], scope);
        dict.set(std::move(key), evaluate(*node.children[i + 1], scope));
      }
      return JinjaValue::dict(std::move(dict));
    }
    case Kind::kAttribute:
      return attribute(evaluate(*node.children[0], scope), node.text);
    case Kind::kItem: {
      const JinjaValue object = evaluate(*node.children[0], scope);
      return item(object, evaluate(*node.children[1], scope));
    }
    case Kind::kSlice:
      return evaluate_slice(node, scope);
    case Kind::kCall: {
      const JinjaValue callee = evaluate(*node.children[0], scope);
      return call(callee, evaluate_arguments(node, scope));
    }
    case Kind::kFilter:
      return apply_filter(node, evaluate(*node.children[0], scope), scope);
    case Kind::kTest: {
      const JinjaValue value = evaluate(*node.children[0], scope);
      return JinjaValue::boolean(
          apply_jinja_test(*this, node.text, value, evaluate_arguments(node, scope)));
    }
    case Kind::kNot:
      return JinjaValue::boolean(!jinja_truth(evaluate(*node.children[0], scope)));
    case Kind::kNegative: {
      const JinjaValue value = evaluate(*node.children[0], scope);
      if (value.is_float()) return JinjaValue::real(-value.as_float());
      return jinja_binary(*this, "-", JinjaValue::integer(0), value);
    }
    case Kind::kPositive:
      return jinja_binary(*this, "+", JinjaValue::integer(0), evaluate(*node.children[0], scope));
    case Kind::kBinary: {
      const JinjaValue left = evaluate(*node.children[0], scope);
      return jinja_binary(*this, node.text, left, evaluate(*node.children[1], scope));
    }
    case Kind::kConcat: {
      std::string joined;
      for (const auto& child : node.children) {
        const JinjaValue part = evaluate(*child, scope);
        joined += part.is_string() ? part.as_string() : str(part);
        if (joined.size() > limits_.max_output_bytes) break;  // made() reports it
      }
      return text(std::move(joined));
    }
    case Kind::kAnd: {
      JinjaValue left = evaluate(*node.children[0], scope);
      return jinja_truth(left) ? evaluate(*node.children[1], scope) : left;
    }
    case Kind::kOr: {
      JinjaValue left = evaluate(*node.children[0], scope);
      return jinja_truth(left) ? left : evaluate(*node.children[1], scope);
    }
    case Kind::kCompare:
      return evaluate_compare(node, scope);
    case Kind::kConditional:
      if (jinja_truth(evaluate(*node.children[0], scope)))
        return evaluate(*node.children[1], scope);
      if (node.children[2]) return evaluate(*node.children[2], scope);
      return JinjaValue::undefined(
          "the inline if-expression evaluated to false and no else section was defined.");
  }
  return JinjaValue();
}

JinjaValue JinjaInterpreter::evaluate_name(const JinjaExpression& node, const ScopePointer& scope) {
  if (const JinjaValue* value = scope->find(node.text)) return *value;
  if (has_jinja_function(node.text)) {
    JinjaCallable callable;
    callable.name = node.text;
    return JinjaValue::callable(std::move(callable));
  }
  return JinjaValue::undefined("'" + node.text + "' is undefined");
}

JinjaValue JinjaInterpreter::evaluate_compare(const JinjaExpression& node,
                                              const ScopePointer& scope) {
  JinjaValue left = evaluate(*node.children[0], scope);
  for (size_t i = 0; i < node.operators.size(); ++i) {
    JinjaValue right = evaluate(*node.children[i + 1], scope);
    const std::string& op = node.operators[i];
    bool holds = false;
    if (op == "==") {
      holds = jinja_equal(left, right, budget_);
    } else if (op == "!=") {
      holds = !jinja_equal(left, right, budget_);
    } else if (op == "<") {
      holds = jinja_less(left, right, budget_);
    } else if (op == ">") {
      holds = jinja_less(right, left, budget_);
    } else if (op == "<=") {
      holds = !jinja_less(right, left, budget_);
    } else if (op == ">=") {
      holds = !jinja_less(left, right, budget_);
    } else {
      holds = jinja_contains(*this, right, left) == (op == "in");
    }
    if (!holds) return JinjaValue::boolean(false);
    left = std::move(right);
  }
  return JinjaValue::boolean(true);
}

JinjaValue JinjaInterpreter::evaluate_slice(const JinjaExpression& node,
                                            const ScopePointer& scope) {
  const JinjaValue value = evaluate(*node.children[0], scope);
  JinjaValue parts[3];
  for (size_t i = 0; i < 3; ++i) {
    parts[i] = node.children[i + 1] ? evaluate(*node.children[i + 1], scope) : JinjaValue::none();
  }
  if (value.is_undefined()) fail_undefined(value);
  return jinja_slice(*this, value, parts[0], parts[1], parts[2]);
}

JinjaArguments JinjaInterpreter::evaluate_arguments(const JinjaExpression& node,
                                                    const ScopePointer& scope) {
  JinjaArguments arguments;
  arguments.positional.reserve(node.arguments.size());
  for (const auto& argument : node.arguments)
    arguments.positional.push_back(evaluate(*argument, scope));
  if (node.spread_arguments) {
    for (JinjaValue& value : iterate(evaluate(*node.spread_arguments, scope)))
      arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, value] : node.named_arguments)
    arguments.named.emplace_back(name, evaluate(*value, scope));
  if (node.spread_named_arguments) {
    const JinjaValue value = evaluate(*node.spread_named_arguments, scope);
    if (!value.is_dict()) throw JinjaError("argument after ** must be a mapping");
    charge(value.as_dict().size());
    for (const auto& [key, item] : value.as_dict().entries()) {
      if (!key.is_string()) throw JinjaError("keywords must be strings");
      arguments.named.emplace_back(key.as_string(), item);
    }
  }
  return arguments;
}

JinjaValue JinjaInterpreter::apply_filter(const JinjaExpression& node, const JinjaValue& value,
                                          const ScopePointer& scope) {
  return apply_jinja_filter(*this, node.text, value, evaluate_arguments(node, scope));
}

JinjaValue JinjaInterpreter::apply_filter_chain(const JinjaExpression& node,
                                                const JinjaValue& value,
                                                const ScopePointer& scope) {
  const JinjaDepth depth(depth_);
  if (!node.children[0]) return apply_filter(node, value, scope);
  return apply_filter(node, apply_filter_chain(*node.children[0], value, scope), scope);
}

JinjaValue JinjaInterpreter::loop_attribute(const JinjaValue& value, const std::string& name) {
  const JinjaLoop& loop = value.as_loop();
  const auto integer = [](size_t number) {
    return JinjaValue::integer(static_cast<int64_t>(number));
  };
  const size_t count = loop.items.size();
  if (name == "index") return integer(loop.index + 1);
  if (name == "index0") return integer(loop.index);
  if (name == "revindex") return integer(count - loop.index);
  if (name == "revindex0") return integer(count - loop.index - 1);
  if (name == "first") return JinjaValue::boolean(loop.index == 0);
  if (name == "last") return JinjaValue::boolean(loop.index + 1 == count);
  if (name == "length") return integer(count);
  if (name == "depth") return JinjaValue::integer(loop.nesting + 1);
  if (name == "depth0") return JinjaValue::integer(loop.nesting);
  if (name == "previtem") {
    if (loop.index > 0) return loop.items[loop.index - 1];
    return JinjaValue::undefined("there is no previous item");
  }
  if (name == "nextitem") {
    if (loop.index + 1 < count) return loop.items[loop.index + 1];
    return JinjaValue::undefined("there is no next item");
  }
  if (name == "cycle" || name == "changed") {
    JinjaCallable callable;
    callable.kind = JinjaCallable::Kind::kLoopMethod;
    callable.name = name;
    callable.receiver = value;
    return JinjaValue::callable(std::move(callable));
  }
  return JinjaValue::undefined("'LoopContext object' has no attribute '" + name + "'");
}

JinjaValue JinjaInterpreter::attribute(const JinjaValue& object, const std::string& name) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is_loop()) return loop_attribute(object, name);
  if (object.is_namespace()) {
    if (const JinjaValue* found = object.as_namespace().attributes.find(name)) return *found;
  }
  if (object.is_callable() && name == "name") return text(object.as_callable().name);
  const JinjaMethodStatus status = find_jinja_method(object, name);
  if (status != JinjaMethodStatus::kNone) {
    JinjaCallable callable;
    callable.kind = status == JinjaMethodStatus::kUnsafe ? JinjaCallable::Kind::kUnsafe
                                                         : JinjaCallable::Kind::kMethod;
    callable.name = name;
    callable.receiver = object;
    return JinjaValue::callable(std::move(callable));
  }
  if (object.is_dict()) {
    if (const JinjaValue* found = object.as_dict().find(name)) return *found;
  }
  return JinjaValue::undefined(object_name(object) + " has no attribute '" + name + "'");
}

JinjaValue JinjaInterpreter::item(const JinjaValue& object, const JinjaValue& key) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is_dict()) {
    if (const JinjaValue* found = object.as_dict().find(key)) return *found;
  }
  const bool is_index = key.is_int() || key.is_bool();
  if (is_index && object.is_sequence()) {
    const auto count = static_cast<int64_t>(object.items().size());
    const int64_t index = key.as_int() < 0 ? key.as_int() + count : key.as_int();
    if (index >= 0 && index < count) return object.items()[static_cast<size_t>(index)];
  } else if (is_index && object.is_string()) {
    const std::string& value = object.as_string();
    charge(value.size() / 64);
    const auto count = static_cast<int64_t>(count_code_points(value));
    const int64_t index = key.as_int() < 0 ? key.as_int() + count : key.as_int();
    if (index >= 0 && index < count) {
      const size_t begin = code_point_offset(value, static_cast<size_t>(index));
      return text(value.substr(begin, read_utf8(value, begin).num_bytes));
    }
  } else if (key.is_string()) {
    return attribute(object, key.as_string());
  }
  return JinjaValue::undefined(object_name(object) + " has no element " +
                               jinja_repr(key, 1U << 16));
}

JinjaValue JinjaInterpreter::call_loop_method(const JinjaCallable& callable,
                                              const JinjaArguments& arguments) {
  JinjaLoop& loop = callable.receiver.as_loop();
  if (callable.name == "cycle") {
    if (arguments.positional.empty()) throw JinjaError("no items for cycling given");
    return arguments.positional[loop.index % arguments.positional.size()];
  }
  std::string seen;
  for (const JinjaValue& value : arguments.positional) seen += jinja_repr(value, max_bytes()) + ",";
  const bool changed = !loop.last_changed || *loop.last_changed != seen;
  loop.last_changed = std::move(seen);
  return JinjaValue::boolean(changed);
}

JinjaValue JinjaInterpreter::call(const JinjaValue& callee, const JinjaArguments& arguments) {
  if (callee.is_undefined()) fail_undefined(callee);
  if (callee.is_loop()) {  // loop(items) in a recursive loop
    const JinjaLoop& loop = callee.as_loop();
    const ScopePointer scope = loop.scope.lock();
    if (loop.recursive == nullptr || !scope) {
      throw JinjaError("The loop must have the 'recursive' marker to be called");
    }
    if (arguments.positional.size() != 1) throw JinjaError("loop() takes one iterable");
    std::string printed;
    std::string* const outer = std::exchange(out_, &printed);
    try {
      run_for(*loop.recursive, arguments.positional[0], scope, loop.nesting + 1);
    } catch (...) {
      out_ = outer;
      throw;
    }
    out_ = outer;
    return text(std::move(printed));
  }
  if (!callee.is_callable()) {
    throw JinjaError(std::string("'") + callee.type_name() + "' object is not callable");
  }
  const JinjaCallable& callable = callee.as_callable();
  switch (callable.kind) {
    case JinjaCallable::Kind::kMacro:
      return call_macro(*callable.macro, arguments);
    case JinjaCallable::Kind::kFunction:
      return call_jinja_function(*this, callable.name, arguments);
    case JinjaCallable::Kind::kMethod:
      return call_jinja_method(*this, callable.receiver, callable.name, arguments);
    case JinjaCallable::Kind::kLoopMethod:
      return call_loop_method(callable, arguments);
    case JinjaCallable::Kind::kUnsafe:
      throw JinjaError("access to attribute '" + callable.name + "' of '" +
                       callable.receiver.type_name() + "' object is unsafe.");
  }
  return JinjaValue();
}

}  // namespace phalanx
