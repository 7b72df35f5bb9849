// The expression grammar of the template language.
// Called by the statement parser.
#pragma once

#include "runtime/server/jinja_ast.h"
#include "runtime/server/jinja_token_reader.h"

namespace phalanx {

/// Reads expressions from a shared cursor. Throws JinjaError with the line.
class JinjaExpressionParser {
 public:
  explicit JinjaExpressionParser(JinjaTokenReader& reader) : reader_(reader) {}

  /// One expression; `with_conditional` allows "a if b else c" at its top.
  JinjaExpressionPtr expression(bool with_conditional = true);
  /// One expression, or a tuple of several with commas. It also ends before the name `end_name`.
  JinjaExpressionPtr tuple(bool with_conditional, std::string_view end_name = {});
  /// Which of a macro's special names have been read since this was last reset.
  struct SpecialNames {
    bool caller = false;
    bool varargs = false;
    bool kwargs = false;
  };
  SpecialNames special_names;

  /// `name(arguments) | name ...` for blocks: the innermost filter has no value.
  JinjaExpressionPtr filter_chain();

 private:
  using Kind = JinjaExpression::Kind;
  JinjaExpressionPtr make(Kind kind, int line) const;
  void adopt(JinjaExpression& parent, JinjaExpressionPtr child) const;
  JinjaExpressionPtr binary(Kind kind, int line, JinjaExpressionPtr left,
                            JinjaExpressionPtr right) const;
  JinjaExpressionPtr conditional();
  JinjaExpressionPtr logical_or();
  JinjaExpressionPtr logical_and();
  JinjaExpressionPtr logical_not();
  JinjaExpressionPtr compare();
  JinjaExpressionPtr sum();
  JinjaExpressionPtr concat();
  JinjaExpressionPtr product();
  JinjaExpressionPtr power();
  JinjaExpressionPtr unary(bool with_filter);
  JinjaExpressionPtr primary();
  JinjaExpressionPtr parenthesized();
  JinjaExpressionPtr list();
  JinjaExpressionPtr dict();
  JinjaExpressionPtr postfix(JinjaExpressionPtr node);
  JinjaExpressionPtr filters_and_tests(JinjaExpressionPtr node);
  JinjaExpressionPtr subscript(JinjaExpressionPtr node);
  JinjaExpressionPtr call(JinjaExpressionPtr node);
  JinjaExpressionPtr filter(JinjaExpressionPtr node);
  JinjaExpressionPtr test(JinjaExpressionPtr node);
  void arguments(JinjaExpression& node);
  std::string dotted_name();

  JinjaTokenReader& reader_;
};

}  // namespace phalanx
