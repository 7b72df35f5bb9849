// Runs the statements of a parsed template, and keeps its limits.
// Called by ChatTemplate::render. jinja_evaluator.cpp has the expressions.
#include "runtime/server/jinja_interpreter.h"

#include <algorithm>

#include "runtime/server/jinja_builtins.h"
#include "runtime/server/jinja_depth.h"
#include "runtime/server/utf8.h"

namespace phalanx {

const JinjaValue* JinjaScope::find(std::string_view name) const {
  for (const JinjaScope* scope = this; scope != nullptr; scope = scope->parent_.get())
    for (const auto& variable : scope->variables_)
      if (variable.first == name) return &variable.second;
  return nullptr;
}

void JinjaScope::set(const std::string& name, JinjaValue value) {
  for (auto& variable : variables_) {
    if (variable.first == name) {
      variable.second = std::move(value);
      return;
    }
  }
  variables_.emplace_back(name, std::move(value));
}

JinjaInterpreter::JinjaInterpreter(const JinjaLimits& limits, std::chrono::sys_seconds now)
    : limits_(limits), now_(now), budget_(limits.max_steps) {}

JinjaInterpreter::~JinjaInterpreter() = default;

void JinjaInterpreter::charge(uint64_t steps) {
  if (steps > budget_) {
    throw JinjaError("more than " + std::to_string(limits_.max_steps) + " steps");
  }
  budget_ -= steps;
}

std::string JinjaInterpreter::made(std::string text) {
  created_bytes_ += text.size();
  if (text.size() > limits_.max_output_bytes || created_bytes_ > limits_.max_created_bytes) {
    throw JinjaError("strings of more than " + std::to_string(limits_.max_output_bytes) +
                     " bytes, or " + std::to_string(limits_.max_created_bytes) + " in all");
  }
  return text;
}

std::string JinjaInterpreter::str(const JinjaValue& value) {
  return made(jinja_str(value, limits_.max_output_bytes));
}

void JinjaInterpreter::write(std::string_view text) {
  if (out_->size() + text.size() > limits_.max_output_bytes) {
    throw JinjaError("output of more than " + std::to_string(limits_.max_output_bytes) + " bytes");
  }
  out_->append(text);
}

std::string JinjaInterpreter::render(const JinjaBody& body, const JinjaDict& variables) {
  const auto scope = std::make_shared<JinjaScope>(nullptr);
  for (const auto& [key, value] : variables.entries()) scope->set(key.as_string(), value);
  std::string result;
  out_ = &result;
  run_body(body, scope);
  out_ = nullptr;
  return result;
}

std::vector<JinjaValue> JinjaInterpreter::iterate(const JinjaValue& value) {
  std::vector<JinjaValue> items;
  if (value.is_sequence()) {
    items = value.items();
  } else if (value.is_dict()) {
    items.reserve(value.as_dict().size());
    for (const auto& entry : value.as_dict().entries()) items.push_back(entry.first);
  } else if (value.is_string()) {
    const std::string& text = value.as_string();
    charge(text.size());
    for (size_t i = 0; i < text.size();) {
      const size_t length = read_utf8(text, i).num_bytes;
      items.push_back(JinjaValue::string(text.substr(i, length)));
      i += length;
    }
  } else if (value.is_loop()) {
    items = value.as_loop().items;
  } else if (!value.is_undefined()) {
    throw JinjaError(std::string("'") + value.type_name() + "' object is not iterable");
  }
  charge(items.size());
  return items;
}

JinjaValue JinjaInterpreter::new_namespace(JinjaDict attributes) {
  charge(1);
  namespaces_.push_back({std::move(attributes)});
  return JinjaValue::name_space(&namespaces_.back());
}

const JinjaMacro* JinjaInterpreter::new_macro(const JinjaStatement& statement,
                                              const ScopePointer& scope) {
  const bool is_caller = statement.kind == JinjaStatement::Kind::kCallBlock;
  macros_.push_back({&statement, scope, is_caller ? "caller" : statement.text});
  return &macros_.back();
}

JinjaInterpreter::Flow JinjaInterpreter::run_body(const JinjaBody& body,
                                                  const ScopePointer& scope) {
  const JinjaDepth depth(depth_);
  for (const JinjaStatementPtr& statement : body) {
    charge(1);
    Flow flow = Flow::kNext;
    try {
      flow = run_statement(*statement, scope);
    } catch (JinjaError& error) {
      if (error.line == 0) error.line = statement->line;
      throw;
    }
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

std::string JinjaInterpreter::capture(const JinjaBody& body, const ScopePointer& scope) {
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  try {
    run_body(body, scope);
  } catch (...) {
    out_ = outer;
    throw;
  }
  out_ = outer;
  return made(std::move(text));
}

void JinjaInterpreter::assign(const JinjaTarget& target, const JinjaValue& value,
                              const ScopePointer& scope) {
  if (target.is_tuple) {
    const std::vector<JinjaValue> items = iterate(value);
    if (items.size() != target.parts.size()) {
      throw JinjaError("cannot unpack " + std::to_string(items.size()) + " values into " +
                       std::to_string(target.parts.size()) + " names");
    }
    for (size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i], scope);
    return;
  }
  if (target.attribute.empty()) {
    scope->set(target.name, value);
    return;
  }
  const JinjaValue* object = scope->find(target.name);
  if (object == nullptr || !object->is_namespace()) {
    throw JinjaError("cannot assign attribute on non-namespace object");
  }
  if (target.attribute.front() == '_') {
    throw JinjaError("attribute '" + target.attribute + "' of a namespace begins with '_'");
  }
  object->as_namespace().attributes.set(target.attribute, value);
}

JinjaInterpreter::Flow JinjaInterpreter::run_statement(const JinjaStatement& statement,
                                                       const ScopePointer& scope) {
  using Kind = JinjaStatement::Kind;
  switch (statement.kind) {
    case Kind::kText:
      write(statement.text);
      return Flow::kNext;
    case Kind::kPrint: {
      const JinjaValue value = evaluate(*statement.expression, scope);
      if (value.is_string()) {
        write(value.as_string());
      } else {
        write(str(value));
      }
      return Flow::kNext;
    }
    case Kind::kIf:
      for (const JinjaStatement::Branch& branch : statement.branches)
        if (jinja_truth(evaluate(*branch.condition, scope))) return run_body(branch.body, scope);
      return run_body(statement.otherwise, scope);
    case Kind::kFor:
      run_for(statement, evaluate(*statement.expression, scope), scope, 0);
      return Flow::kNext;
    case Kind::kSet:
      assign(statement.target, evaluate(*statement.expression, scope), scope);
      return Flow::kNext;
    case Kind::kSetBlock: {
      JinjaValue value =
          JinjaValue::string(capture(statement.body, std::make_shared<JinjaScope>(scope)));
      if (statement.expression) value = apply_filter_chain(*statement.expression, value, scope);
      assign(statement.target, value, scope);
      return Flow::kNext;
    }
    case Kind::kMacro: {
      JinjaCallable callable;
      callable.kind = JinjaCallable::Kind::kMacro;
      callable.name = statement.text;
      callable.macro = new_macro(statement, scope);
      scope->set(statement.text, JinjaValue::callable(std::move(callable)));
      return Flow::kNext;
    }
    case Kind::kCallBlock:
      run_call_block(statement, scope);
      return Flow::kNext;
    case Kind::kFilterBlock: {
      const JinjaValue value =
          JinjaValue::string(capture(statement.body, std::make_shared<JinjaScope>(scope)));
      write(str(apply_filter_chain(*statement.expression, value, scope)));
      return Flow::kNext;
    }
    case Kind::kWith: {
      const auto inner = std::make_shared<JinjaScope>(scope);
      for (const JinjaStatement::Assignment& assignment : statement.assignments)
        assign(assignment.target, evaluate(*assignment.value, scope), inner);
      return run_body(statement.body, inner);
    }
    case Kind::kGeneration:
      return run_body(statement.body, std::make_shared<JinjaScope>(scope));
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

void JinjaInterpreter::run_for(const JinjaStatement& statement, const JinjaValue& iterable,
                               const ScopePointer& scope, int nesting) {
  const JinjaDepth depth(depth_);
  auto loop = std::make_shared<JinjaLoop>();
  loop->items = iterate(iterable);
  if (statement.condition) {
    std::vector<JinjaValue> kept;
    for (const JinjaValue& item : loop->items) {
      const auto inner = std::make_shared<JinjaScope>(scope);
      assign(statement.target, item, inner);
      if (jinja_truth(evaluate(*statement.condition, inner))) kept.push_back(item);
    }
    loop->items = std::move(kept);
  }
  for (const JinjaValue& item : loop->items)
    loop->depth_of_items = std::max(loop->depth_of_items, item.depth());
  loop->nesting = nesting;
  loop->recursive = statement.recursive ? &statement : nullptr;
  loop->scope = scope;
  if (loop->items.empty()) {
    run_body(statement.otherwise, std::make_shared<JinjaScope>(scope));
    return;
  }
  for (loop->index = 0; loop->index < loop->items.size(); ++loop->index) {
    const auto inner = std::make_shared<JinjaScope>(scope);
    inner->set("loop", JinjaValue::loop(loop));
    assign(statement.target, loop->items[loop->index], inner);
    if (run_body(statement.body, inner) == Flow::kBreak) break;
  }
}

void JinjaInterpreter::run_call_block(const JinjaStatement& statement, const ScopePointer& scope) {
  const JinjaExpression& call_node = *statement.expression;
  const JinjaValue callee = evaluate(*call_node.children[0], scope);
  JinjaArguments arguments = evaluate_arguments(call_node, scope);
  JinjaCallable caller;
  caller.kind = JinjaCallable::Kind::kMacro;
  caller.name = "caller";
  caller.macro = new_macro(statement, scope);
  arguments.named.emplace_back("caller", JinjaValue::callable(std::move(caller)));
  write(str(call(callee, arguments)));
}

JinjaValue JinjaInterpreter::call_macro(const JinjaMacro& macro, const JinjaArguments& arguments) {
  const JinjaDepth depth(depth_);
  const JinjaStatement& statement = *macro.statement;
  const auto scope = std::make_shared<JinjaScope>(macro.scope);
  const std::string name = "macro '" + macro.name + "'";
  const size_t num_parameters = statement.parameters.size();
  std::vector<const JinjaValue*> given(num_parameters, nullptr);
  std::vector<JinjaValue> extra;
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    if (i < num_parameters) {
      given[i] = &arguments.positional[i];
    } else {
      extra.push_back(arguments.positional[i]);
    }
  }
  JinjaDict extra_named;
  JinjaValue caller = JinjaValue::undefined("No caller defined");
  for (const auto& [key, value] : arguments.named) {
    size_t index = 0;
    while (index < num_parameters && statement.parameters[index].name != key) ++index;
    if (index < num_parameters) {
      if (given[index] != nullptr) throw JinjaError(name + " got two values for '" + key + "'");
      given[index] = &value;
    } else if (key == "caller" && statement.uses_caller) {
      caller = value;
    } else if (statement.uses_kwargs) {
      extra_named.set(key, value);
    } else {
      throw JinjaError(name + " takes no keyword argument '" + key + "'");
    }
  }
  if (!extra.empty() && !statement.uses_varargs) {
    throw JinjaError(name + " takes not more than " + std::to_string(num_parameters) +
                     " argument(s)");
  }
  for (size_t i = 0; i < num_parameters; ++i) {
    const JinjaMacroParameter& parameter = statement.parameters[i];
    if (given[i] != nullptr) {
      scope->set(parameter.name, *given[i]);
    } else if (parameter.otherwise) {
      scope->set(parameter.name, evaluate(*parameter.otherwise, scope));
    } else {
      scope->set(parameter.name,
                 JinjaValue::undefined("parameter '" + parameter.name + "' was not provided"));
    }
  }
  if (statement.uses_caller && statement.kind == JinjaStatement::Kind::kMacro) {
    scope->set("caller", caller);
  }
  if (statement.uses_varargs) scope->set("varargs", JinjaValue::tuple(std::move(extra)));
  if (statement.uses_kwargs) scope->set("kwargs", JinjaValue::dict(std::move(extra_named)));
  return JinjaValue::string(capture(statement.body, scope));
}

}  // namespace phalanx
