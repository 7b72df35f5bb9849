// The parsed form of a template.
// Made by the template parser, walked by the interpreter.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/server/jinja_value.h"

namespace phalanx {

struct JinjaExpression;
using JinjaExpressionPtr = std::unique_ptr<JinjaExpression>;

/// One node for all expressions; what `children` are depends on the kind.
struct JinjaExpression {
  enum class Kind {
    kConstant,     ///< value
    kName,         ///< text
    kList,         ///< children: the items
    kTuple,        ///< children: the items
    kDict,         ///< children: key, value, key, value, ...
    kAttribute,    ///< children: object; text: the name
    kItem,         ///< children: object, key
    kSlice,        ///< children: object, start, stop, step (each may be null)
    kCall,         ///< children: callee; arguments
    kFilter,       ///< children: value (null in a filter block); text: the name; arguments
    kTest,         ///< children: value; text: the name; arguments
    kNot,          ///< children: operand
    kNegative,     ///< children: operand
    kPositive,     ///< children: operand
    kBinary,       ///< children: left, right; text: the operator
    kConcat,       ///< children: the parts of a ~ b ~ c
    kAnd,          ///< children: left, right
    kOr,           ///< children: left, right
    kCompare,      ///< children: first, then one for each of operators
    kConditional,  ///< children: condition, then, else (may be null)
  };
  struct Named {
    std::string name;
    JinjaExpressionPtr value;
  };
  Kind kind = Kind::kConstant;
  int line = 0;
  int depth = 1;  ///< levels of nodes, bounded by the parser
  std::string text;
  JinjaValue value;
  std::vector<JinjaExpressionPtr> children;
  std::vector<std::string> operators;  ///< of kCompare: "==", "<", "in", "not in", ...
  // Arguments of kCall, kFilter and kTest.
  std::vector<JinjaExpressionPtr> arguments;
  std::vector<Named> named_arguments;
  JinjaExpressionPtr spread_arguments;        ///< *expression
  JinjaExpressionPtr spread_named_arguments;  ///< **expression
};

/// What a value is assigned to: a name, an attribute of a namespace, or a tuple of targets.
struct JinjaTarget {
  std::string name;
  std::string attribute;  ///< not empty: name.attribute
  std::vector<JinjaTarget> parts;
  bool is_tuple = false;
};

struct JinjaStatement;
using JinjaStatementPtr = std::unique_ptr<JinjaStatement>;
using JinjaBody = std::vector<JinjaStatementPtr>;

struct JinjaMacroParameter {
  std::string name;
  JinjaExpressionPtr otherwise;  ///< default value, may be null
};

/// One node for all statements.
struct JinjaStatement {
  enum class Kind {
    kText,         ///< text
    kPrint,        ///< expression
    kIf,           ///< branches, otherwise
    kFor,          ///< target, expression, condition (may be null), body, otherwise, recursive
    kSet,          ///< target, expression
    kSetBlock,     ///< target, expression (a filter without value, may be null), body
    kMacro,        ///< text: the name; parameters, body
    kCallBlock,    ///< expression (a call), parameters, body
    kFilterBlock,  ///< expression (a filter without value), body
    kWith,         ///< assignments, body
    kGeneration,   ///< body
    kBreak,
    kContinue,
  };
  struct Branch {
    JinjaExpressionPtr condition;
    JinjaBody body;
  };
  struct Assignment {
    JinjaTarget target;
    JinjaExpressionPtr value;
  };
  Kind kind = Kind::kText;
  int line = 0;
  std::string text;
  JinjaExpressionPtr expression;
  JinjaExpressionPtr condition;
  JinjaTarget target;
  JinjaBody body;
  JinjaBody otherwise;
  std::vector<Branch> branches;
  std::vector<Assignment> assignments;
  std::vector<JinjaMacroParameter> parameters;
  bool recursive = false;
  bool uses_caller = false;
  bool uses_varargs = false;
  bool uses_kwargs = false;
};

}  // namespace phalanx
