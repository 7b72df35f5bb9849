// The expression grammar of the template language, by recursive descent.
// Called by the statement parser.
#include "runtime/server/jinja_expression_parser.h"

#include <algorithm>
#include <array>
#include <utility>

namespace phalanx {
namespace {

using Token = JinjaToken::Kind;

constexpr int kMaxExpressionDepth = 250;
constexpr std::array<std::string_view, 6> kCompareOperators = {"==", "!=", "<", "<=", ">", ">="};

}  // namespace

JinjaExpressionPtr JinjaExpressionParser::make(Kind kind, int line) const {
  auto node = std::make_unique<JinjaExpression>();
  node->kind = kind;
  node->line = line;
  return node;
}

// Chains like a + b + c nest to the left without recursion here, so the depth is checked.
void JinjaExpressionParser::adopt(JinjaExpression& parent, JinjaExpressionPtr child) const {
  if (child) {
    parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxExpressionDepth) reader_.fail("expression nested too deeply");
  }
  parent.children.push_back(std::move(child));
}

JinjaExpressionPtr JinjaExpressionParser::binary(Kind kind, int line, JinjaExpressionPtr left,
                                                 JinjaExpressionPtr right) const {
  JinjaExpressionPtr node = make(kind, line);
  adopt(*node, std::move(left));
  adopt(*node, std::move(right));
  return node;
}

JinjaExpressionPtr JinjaExpressionParser::expression(bool with_conditional) {
  const JinjaTokenReader::Level level(reader_);
  return with_conditional ? conditional() : logical_or();
}

JinjaExpressionPtr JinjaExpressionParser::conditional() {
  JinjaExpressionPtr value = logical_or();
  while (reader_.at_name("if")) {
    const int line = reader_.next().line;
    JinjaExpressionPtr condition = logical_or();
    JinjaExpressionPtr otherwise;
    if (reader_.skip_name("else")) {
      const JinjaTokenReader::Level level(reader_);
      otherwise = conditional();
    }
    JinjaExpressionPtr node = make(Kind::kConditional, line);
    adopt(*node, std::move(condition));
    adopt(*node, std::move(value));
    adopt(*node, std::move(otherwise));
    value = std::move(node);
  }
  return value;
}

JinjaExpressionPtr JinjaExpressionParser::logical_or() {
  JinjaExpressionPtr left = logical_and();
  while (reader_.at_name("or")) {
    const int line = reader_.next().line;
    left = binary(Kind::kOr, line, std::move(left), logical_and());
  }
  return left;
}

JinjaExpressionPtr JinjaExpressionParser::logical_and() {
  JinjaExpressionPtr left = logical_not();
  while (reader_.at_name("and")) {
    const int line = reader_.next().line;
    left = binary(Kind::kAnd, line, std::move(left), logical_not());
  }
  return left;
}

JinjaExpressionPtr JinjaExpressionParser::logical_not() {
  if (!reader_.at_name("not")) return compare();
  const JinjaTokenReader::Level level(reader_);
  JinjaExpressionPtr node = make(Kind::kNot, reader_.next().line);
  adopt(*node, logical_not());
  return node;
}

JinjaExpressionPtr JinjaExpressionParser::compare() {
  const int line = reader_.peek().line;
  JinjaExpressionPtr first = sum();
  JinjaExpressionPtr node;
  while (true) {
    std::string op;
    if (reader_.at(Token::kOperator) &&
        std::find(kCompareOperators.begin(), kCompareOperators.end(), reader_.peek().text) !=
            kCompareOperators.end()) {
      op = reader_.next().text;
    } else if (reader_.at_name("in")) {
      reader_.next();
      op = "in";
    } else if (reader_.at_name("not") && reader_.peek(1).kind == Token::kName &&
               reader_.peek(1).text == "in") {
      reader_.next();
      reader_.next();
      op = "not in";
    } else {
      break;
    }
    if (!node) {
      node = make(Kind::kCompare, line);
      adopt(*node, std::move(first));
    }
    adopt(*node, sum());
    node->operators.push_back(std::move(op));
  }
  return node ? std::move(node) : std::move(first);
}

JinjaExpressionPtr JinjaExpressionParser::sum() {
  JinjaExpressionPtr left = concat();
  while (reader_.at_operator("+") || reader_.at_operator("-")) {
    const JinjaToken op = reader_.next();
    left = binary(Kind::kBinary, op.line, std::move(left), concat());
    left->text = op.text;
  }
  return left;
}

JinjaExpressionPtr JinjaExpressionParser::concat() {
  const int line = reader_.peek().line;
  JinjaExpressionPtr first = product();
  if (!reader_.at_operator("~")) return first;
  JinjaExpressionPtr node = make(Kind::kConcat, line);
  adopt(*node, std::move(first));
  while (reader_.skip_operator("~")) adopt(*node, product());
  return node;
}

JinjaExpressionPtr JinjaExpressionParser::product() {
  JinjaExpressionPtr left = power();
  while (reader_.at_operator("*") || reader_.at_operator("/") || reader_.at_operator("//") ||
         reader_.at_operator("%")) {
    const JinjaToken op = reader_.next();
    left = binary(Kind::kBinary, op.line, std::move(left), power());
    left->text = op.text;
  }
  return left;
}

JinjaExpressionPtr JinjaExpressionParser::power() {
  JinjaExpressionPtr left = unary(true);
  while (reader_.at_operator("**")) {
    const JinjaToken op = reader_.next();
    left = binary(Kind::kBinary, op.line, std::move(left), unary(true));
    left->text = op.text;
  }
  return left;
}

JinjaExpressionPtr JinjaExpressionParser::unary(bool with_filter) {
  JinjaExpressionPtr node;
  if (reader_.at_operator("-") || reader_.at_operator("+")) {
    const JinjaTokenReader::Level level(reader_);
    const JinjaToken op = reader_.next();
    node = make(op.text == "-" ? Kind::kNegative : Kind::kPositive, op.line);
    adopt(*node, unary(false));
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return with_filter ? filters_and_tests(std::move(node)) : std::move(node);
}

JinjaExpressionPtr JinjaExpressionParser::primary() {
  const JinjaToken token = reader_.peek();
  switch (token.kind) {
    case Token::kName: {
      reader_.next();
      if (token.text == "true" || token.text == "True" || token.text == "false" ||
          token.text == "False") {
        JinjaExpressionPtr node = make(Kind::kConstant, token.line);
        node->value = JinjaValue::boolean((token.text[0] | 0x20) == 't');
        return node;
      }
      if (token.text == "none" || token.text == "None") {
        JinjaExpressionPtr node = make(Kind::kConstant, token.line);
        node->value = JinjaValue::none();
        return node;
      }
      special_names.caller |= token.text == "caller";
      special_names.varargs |= token.text == "varargs";
      special_names.kwargs |= token.text == "kwargs";
      JinjaExpressionPtr node = make(Kind::kName, token.line);
      node->text = token.text;
      return node;
    }
    case Token::kString: {
      std::string text;
      while (reader_.at(Token::kString)) text += reader_.next().text;
      JinjaExpressionPtr node = make(Kind::kConstant, token.line);
      node->value = JinjaValue::string(std::move(text));
      return node;
    }
    case Token::kInteger: {
      reader_.next();
      JinjaExpressionPtr node = make(Kind::kConstant, token.line);
      node->value = JinjaValue::integer(token.integer);
      return node;
    }
    case Token::kFloat: {
      reader_.next();
      JinjaExpressionPtr node = make(Kind::kConstant, token.line);
      node->value = JinjaValue::real(token.real);
      return node;
    }
    case Token::kOperator:
      if (token.text == "(") return parenthesized();
      if (token.text == "[") return list();
      if (token.text == "{") return dict();
      break;
    case Token::kData:
    case Token::kVariableBegin:
    case Token::kVariableEnd:
    case Token::kBlockBegin:
    case Token::kBlockEnd:
    case Token::kEnd:
      break;
  }
  reader_.fail("unexpected " + reader_.describe() + ", expected an expression");
}

JinjaExpressionPtr JinjaExpressionParser::tuple(bool with_conditional, std::string_view end_name) {
  const int line = reader_.peek().line;
  JinjaExpressionPtr first = expression(with_conditional);
  if (!reader_.at_operator(",")) return first;
  JinjaExpressionPtr node = make(Kind::kTuple, line);
  adopt(*node, std::move(first));
  while (reader_.skip_operator(",")) {
    const bool ends = reader_.at(Token::kVariableEnd) || reader_.at(Token::kBlockEnd) ||
                      reader_.at_operator(")") || (!end_name.empty() && reader_.at_name(end_name));
    if (ends) break;
    adopt(*node, expression(with_conditional));
  }
  return node;
}

JinjaExpressionPtr JinjaExpressionParser::parenthesized() {
  const int line = reader_.next().line;
  if (reader_.skip_operator(")")) return make(Kind::kTuple, line);
  JinjaExpressionPtr node = tuple(true);
  reader_.expect_operator(")");
  return node;
}

JinjaExpressionPtr JinjaExpressionParser::list() {
  JinjaExpressionPtr node = make(Kind::kList, reader_.next().line);
  while (!reader_.at_operator("]")) {
    if (!node->children.empty()) {
      reader_.expect_operator(",");
      if (reader_.at_operator("]")) break;
    }
    adopt(*node, expression());
  }
  reader_.expect_operator("]");
  return node;
}

JinjaExpressionPtr JinjaExpressionParser::dict() {
  JinjaExpressionPtr node = make(Kind::kDict, reader_.next().line);
  while (!reader_.at_operator("}")) {
    if (!node->children.empty()) {
      reader_.expect_operator(",");
      if (reader_.at_operator("}")) break;
    }
    adopt(*node, expression());
    reader_.expect_operator(":");
    adopt(*node, expression());
  }
  reader_.expect_operator("}");
  return node;
}

JinjaExpressionPtr JinjaExpressionParser::postfix(JinjaExpressionPtr node) {
  while (true) {
    if (reader_.at_operator(".") || reader_.at_operator("[")) {
      node = subscript(std::move(node));
    } else if (reader_.at_operator("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

JinjaExpressionPtr JinjaExpressionParser::filters_and_tests(JinjaExpressionPtr node) {
  while (true) {
    if (reader_.at_operator("|")) {
      reader_.next();
      node = filter(std::move(node));
    } else if (reader_.at_name("is")) {
      reader_.next();
      node = test(std::move(node));
    } else if (reader_.at_operator("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

JinjaExpressionPtr JinjaExpressionParser::subscript(JinjaExpressionPtr node) {
  const JinjaToken token = reader_.next();
  if (token.text == ".") {
    const JinjaToken name = reader_.next();
    if (name.kind == Token::kName) {
      JinjaExpressionPtr result = make(Kind::kAttribute, token.line);
      result->text = name.text;
      adopt(*result, std::move(node));
      return result;
    }
    if (name.kind != Token::kInteger) reader_.fail("expected a name or a number after '.'");
    JinjaExpressionPtr key = make(Kind::kConstant, token.line);
    key->value = JinjaValue::integer(name.integer);
    return binary(Kind::kItem, token.line, std::move(node), std::move(key));
  }
  // [key], [start:stop:step]
  JinjaExpressionPtr parts[3];
  size_t part = 0;
  bool is_slice = false;
  while (!reader_.at_operator("]")) {
    if (reader_.skip_operator(":")) {
      is_slice = true;
      if (++part > 2) reader_.fail("a slice has at most three parts");
      continue;
    }
    if (parts[part]) reader_.fail("expected ']', got " + reader_.describe());
    parts[part] = expression();
    if (reader_.at_operator(",")) reader_.fail("a tuple as an index is not supported");
  }
  reader_.next();
  if (!is_slice) {
    if (!parts[0]) reader_.fail("expected an index");
    return binary(Kind::kItem, token.line, std::move(node), std::move(parts[0]));
  }
  JinjaExpressionPtr result = make(Kind::kSlice, token.line);
  adopt(*result, std::move(node));
  for (JinjaExpressionPtr& each : parts) adopt(*result, std::move(each));
  return result;
}

void JinjaExpressionParser::arguments(JinjaExpression& node) {
  reader_.expect_operator("(");
  const auto count = [&node](const JinjaExpressionPtr& argument, JinjaTokenReader& reader) {
    node.depth = std::max(node.depth, argument->depth + 1);
    if (node.depth > kMaxExpressionDepth) reader.fail("expression nested too deeply");
  };
  bool first = true;
  while (!reader_.at_operator(")")) {
    if (!first) {
      reader_.expect_operator(",");
      if (reader_.at_operator(")")) break;
    }
    first = false;
    if (reader_.skip_operator("**")) {
      if (node.spread_named_arguments) reader_.fail("two ** arguments");
      node.spread_named_arguments = expression();
      count(node.spread_named_arguments, reader_);
    } else if (reader_.skip_operator("*")) {
      if (node.spread_arguments || node.spread_named_arguments)
        reader_.fail("misplaced * argument");
      node.spread_arguments = expression();
      count(node.spread_arguments, reader_);
    } else if (reader_.at(Token::kName) && reader_.peek(1).kind == Token::kOperator &&
               reader_.peek(1).text == "=") {
      if (node.spread_named_arguments) reader_.fail("an argument after **");
      std::string name = reader_.next().text;
      reader_.next();
      JinjaExpressionPtr value = expression();
      count(value, reader_);
      node.named_arguments.push_back({std::move(name), std::move(value)});
    } else {
      if (!node.named_arguments.empty() || node.spread_arguments || node.spread_named_arguments) {
        reader_.fail("a positional argument after others");
      }
      JinjaExpressionPtr value = expression();
      count(value, reader_);
      node.arguments.push_back(std::move(value));
    }
  }
  reader_.expect_operator(")");
}

JinjaExpressionPtr JinjaExpressionParser::call(JinjaExpressionPtr node) {
  JinjaExpressionPtr result = make(Kind::kCall, reader_.peek().line);
  adopt(*result, std::move(node));
  arguments(*result);
  return result;
}

std::string JinjaExpressionParser::dotted_name() {
  std::string name = reader_.expect_name();
  while (reader_.skip_operator(".")) name += "." + reader_.expect_name();
  return name;
}

JinjaExpressionPtr JinjaExpressionParser::filter(JinjaExpressionPtr node) {
  JinjaExpressionPtr result = make(Kind::kFilter, reader_.peek().line);
  result->text = dotted_name();
  adopt(*result, std::move(node));
  if (reader_.at_operator("(")) arguments(*result);
  return result;
}

JinjaExpressionPtr JinjaExpressionParser::filter_chain() {
  const JinjaTokenReader::Level level(reader_);
  JinjaExpressionPtr node = filter(nullptr);
  while (reader_.skip_operator("|")) node = filter(std::move(node));
  return node;
}

JinjaExpressionPtr JinjaExpressionParser::test(JinjaExpressionPtr node) {
  const int line = reader_.peek().line;
  const bool negated = reader_.skip_name("not");
  JinjaExpressionPtr result = make(Kind::kTest, line);
  result->text = dotted_name();
  adopt(*result, std::move(node));
  const JinjaToken& token = reader_.peek();
  const bool bracket = token.kind == Token::kOperator && (token.text == "[" || token.text == "{");
  const bool word = token.kind == Token::kName && token.text != "else" && token.text != "or" &&
                    token.text != "and";
  if (reader_.at_operator("(")) {
    arguments(*result);
  } else if (bracket || word || token.kind == Token::kString || token.kind == Token::kInteger ||
             token.kind == Token::kFloat) {
    if (reader_.at_name("is")) reader_.fail("You cannot chain multiple tests with is");
    const JinjaTokenReader::Level level(reader_);
    JinjaExpressionPtr argument = postfix(primary());
    result->depth = std::max(result->depth, argument->depth + 1);
    result->arguments.push_back(std::move(argument));
  }
  if (!negated) return result;
  JinjaExpressionPtr inverse = make(Kind::kNot, line);
  adopt(*inverse, std::move(result));
  return inverse;
}

}  // namespace phalanx
