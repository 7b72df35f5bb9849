// Runs a parsed template: statements, expressions, scopes, and the limits on all of it.
// Called by ChatTemplate::render; the built-in filters, tests, methods and functions call back.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/server/jinja_ast.h"
#include "runtime/server/jinja_loop.h"
#include "runtime/server/jinja_value.h"

namespace phalanx {

struct JinjaLimits {
  uint64_t max_steps = 5'000'000;                  ///< nodes evaluated, items walked
  size_t max_output_bytes = size_t{16} << 20;      ///< of the result and of any one string
  uint64_t max_created_bytes = uint64_t{1} << 30;  ///< of all strings made on the way
};

/// The variables of one frame. A scope knows the one around it.
class JinjaScope {
 public:
  explicit JinjaScope(std::shared_ptr<JinjaScope> parent) : parent_(std::move(parent)) {}
  /// The variable here or in a scope around, or nullptr.
  const JinjaValue* find(std::string_view name) const;
  void set(const std::string& name, JinjaValue value);

 private:
  std::shared_ptr<JinjaScope> parent_;
  std::vector<std::pair<std::string, JinjaValue>> variables_;
};

/// A macro, or the body of a call block, and where it was defined.
struct JinjaMacro {
  const JinjaStatement* statement = nullptr;
  std::shared_ptr<JinjaScope> scope;
  std::string name;
};

/// Runs one template once. Not thread safe. Throws JinjaError with the line: what the template does
/// wrong, raise_exception, and the limits. Semantics: jinja2's ImmutableSandboxedEnvironment as
/// transformers sets it up; where it gives generators this gives lists.
class JinjaInterpreter {
 public:
  /// `now`: what strftime_now prints, as the wall clock of the caller's time zone.
  JinjaInterpreter(const JinjaLimits& limits, std::chrono::sys_seconds now);
  ~JinjaInterpreter();
  JinjaInterpreter(const JinjaInterpreter&) = delete;
  JinjaInterpreter& operator=(const JinjaInterpreter&) = delete;

  std::string render(const JinjaBody& body, const JinjaDict& variables);

  // For the built-ins.
  /// Counts work; throws when the limit is reached.
  void charge(uint64_t steps);
  /// The steps that are left, for those who count themselves.
  uint64_t& budget() { return budget_; }
  /// Counts a new string of that size and returns it.
  std::string made(std::string text);
  JinjaValue text(std::string value) { return JinjaValue::string(made(std::move(value))); }
  size_t max_bytes() const { return limits_.max_output_bytes; }
  std::chrono::sys_seconds now() const { return now_; }
  /// str(value).
  std::string str(const JinjaValue& value);
  /// The items that a for loop would walk. Throws for what cannot be iterated.
  std::vector<JinjaValue> iterate(const JinjaValue& value);
  JinjaValue attribute(const JinjaValue& object, const std::string& name);
  JinjaValue item(const JinjaValue& object, const JinjaValue& key);
  JinjaValue call(const JinjaValue& callee, const JinjaArguments& arguments);
  JinjaValue new_namespace(JinjaDict attributes);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  using ScopePointer = std::shared_ptr<JinjaScope>;

  Flow run_body(const JinjaBody& body, const ScopePointer& scope);
  Flow run_statement(const JinjaStatement& statement, const ScopePointer& scope);
  void run_for(const JinjaStatement& statement, const JinjaValue& iterable,
               const ScopePointer& scope, int nesting);
  void run_call_block(const JinjaStatement& statement, const ScopePointer& scope);
  /// The text that the body prints, in a scope of its own.
  std::string capture(const JinjaBody& body, const ScopePointer& scope);
  void assign(const JinjaTarget& target, const JinjaValue& value, const ScopePointer& scope);
  void write(std::string_view text);

  JinjaValue evaluate(const JinjaExpression& node, const ScopePointer& scope);
  JinjaValue evaluate_node(const JinjaExpression& node, const ScopePointer& scope);
  JinjaValue evaluate_name(const JinjaExpression& node, const ScopePointer& scope);
  JinjaValue evaluate_compare(const JinjaExpression& node, const ScopePointer& scope);
  JinjaValue evaluate_slice(const JinjaExpression& node, const ScopePointer& scope);
  JinjaValue apply_filter(const JinjaExpression& node, const JinjaValue& value,
                          const ScopePointer& scope);
  /// A filter chain without a value, applied to `value`.
  JinjaValue apply_filter_chain(const JinjaExpression& node, const JinjaValue& value,
                                const ScopePointer& scope);
  JinjaArguments evaluate_arguments(const JinjaExpression& node, const ScopePointer& scope);
  JinjaValue call_macro(const JinjaMacro& macro, const JinjaArguments& arguments);
  JinjaValue call_loop_method(const JinjaCallable& callable, const JinjaArguments& arguments);
  JinjaValue loop_attribute(const JinjaValue& value, const std::string& name);
  const JinjaMacro* new_macro(const JinjaStatement& statement, const ScopePointer& scope);

  JinjaLimits limits_;
  std::chrono::sys_seconds now_;
  uint64_t budget_;  // steps that are left
  uint64_t created_bytes_ = 0;
  int depth_ = 0;
  std::string* out_ = nullptr;
  std::deque<JinjaNamespace> namespaces_;
  std::deque<JinjaMacro> macros_;
};

}  // namespace phalanx
