// The statement grammar of the template language: for, if, set, macro, call, filter, with, ...
// Called by ChatTemplate::parse.
#include "runtime/server/jinja_parser.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "runtime/server/jinja_expression_parser.h"
#include "runtime/server/jinja_token_reader.h"

namespace phalanx {
namespace {

using Token = JinjaToken::Kind;
using Kind = JinjaStatement::Kind;
using Names = std::initializer_list<std::string_view>;

class StatementParser {
 public:
  explicit StatementParser(std::string_view source)
      : reader_(lex_jinja(source)), expressions_(reader_) {}

  JinjaBody run() {
    JinjaBody body = statements({});
    if (!reader_.at(Token::kEnd)) reader_.fail("unexpected " + reader_.describe());
    return body;
  }

 private:
  // Statements up to a block that begins with one of `ends` (which is left to be read; the block
  // begin is consumed), or up to the end of the template when there are none.
  JinjaBody statements(Names ends) {
    const JinjaTokenReader::Level level(reader_);
    JinjaBody body;
    while (!reader_.at(Token::kEnd)) {
      const JinjaToken token = reader_.next();
      if (token.kind == Token::kData) {
        JinjaStatementPtr text = make(Kind::kText, token.line);
        text->text = token.text;
        body.push_back(std::move(text));
      } else if (token.kind == Token::kVariableBegin) {
        JinjaStatementPtr print = make(Kind::kPrint, token.line);
        print->expression = expressions_.tuple(true);
        expect(Token::kVariableEnd);
        body.push_back(std::move(print));
      } else if (token.kind == Token::kBlockBegin) {
        if (reader_.at(Token::kName) &&
            std::find(ends.begin(), ends.end(), reader_.peek().text) != ends.end()) {
          return body;
        }
        if (JinjaStatementPtr statement = block()) body.push_back(std::move(statement));
      } else {
        reader_.fail("unexpected " + reader_.describe());
      }
    }
    if (ends.size() > 0) {
      reader_.fail("unexpected end of template, expected '" + std::string(*ends.begin()) + "'");
    }
    return body;
  }

  JinjaStatementPtr make(Kind kind, int line) const {
    auto statement = std::make_unique<JinjaStatement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  void expect(Token kind) {
    if (!reader_.at(kind))
      reader_.fail("unexpected " + reader_.describe() + ", expected the tag's end");
    reader_.next();
  }
  void end_of_tag() { expect(Token::kBlockEnd); }

  // The body behind a tag: its end, the statements, and the name of the tag that ends them.
  JinjaBody body_until(Names ends) {
    reader_.skip_operator(":");
    end_of_tag();
    return statements(ends);
  }

  JinjaStatementPtr block() {
    const int line = reader_.peek().line;
    const std::string tag = reader_.expect_name();
    if (tag == "if") return if_block(line);
    if (tag == "for") return for_block(line);
    if (tag == "set") return set_block(line);
    if (tag == "macro") return macro_block(line);
    if (tag == "call") return call_block(line);
    if (tag == "with") return with_block(line);
    if (tag == "filter") {
      JinjaStatementPtr statement = make(Kind::kFilterBlock, line);
      statement->expression = expressions_.filter_chain();
      statement->body = body_until({"endfilter"});
      finish_block();
      return statement;
    }
    if (tag == "generation") {
      JinjaStatementPtr statement = make(Kind::kGeneration, line);
      const int loops = std::exchange(num_loops_, 0);
      statement->body = body_until({"endgeneration"});
      num_loops_ = loops;
      finish_block();
      return statement;
    }
    if (tag == "break" || tag == "continue") {
      if (num_loops_ == 0) throw JinjaError("'" + tag + "' outside of a loop", line);
      end_of_tag();
      return make(tag == "break" ? Kind::kBreak : Kind::kContinue, line);
    }
    throw JinjaError("unknown or unsupported tag '" + tag + "'", line);
  }

  // The name of the end tag and its end.
  void finish_block() {
    reader_.next();
    end_of_tag();
  }

  JinjaStatementPtr if_block(int line) {
    JinjaStatementPtr statement = make(Kind::kIf, line);
    while (true) {
      JinjaStatement::Branch branch;
      branch.condition = expressions_.tuple(false);
      branch.body = body_until({"endif", "elif", "else"});
      statement->branches.push_back(std::move(branch));
      const std::string next = reader_.next().text;
      if (next == "elif") continue;
      if (next == "else") {
        statement->otherwise = body_until({"endif"});
        reader_.next();
      }
      end_of_tag();
      return statement;
    }
  }

  JinjaStatementPtr for_block(int line) {
    JinjaStatementPtr statement = make(Kind::kFor, line);
    statement->target = target(/*with_attribute=*/false, "in");
    if (!reader_.skip_name("in")) reader_.fail("expected 'in', got " + reader_.describe());
    statement->expression = expressions_.tuple(false, "recursive");
    if (reader_.skip_name("if")) statement->condition = expressions_.expression();
    statement->recursive = reader_.skip_name("recursive");
    ++num_loops_;
    statement->body = body_until({"endfor", "else"});
    --num_loops_;
    if (reader_.next().text == "else") {
      statement->otherwise = body_until({"endfor"});
      reader_.next();
    }
    end_of_tag();
    return statement;
  }

  JinjaTarget single_target(bool with_attribute) {
    JinjaTarget result;
    if (reader_.skip_operator("(")) {
      result = target(with_attribute, {});
      reader_.expect_operator(")");
      return result;
    }
    result.name = reader_.expect_name();
    static constexpr std::string_view kReserved[] = {"true", "false", "none",
                                                     "True", "False", "None"};
    if (std::find(std::begin(kReserved), std::end(kReserved), result.name) != std::end(kReserved)) {
      reader_.fail("can't assign to '" + result.name + "'");
    }
    if (with_attribute && reader_.skip_operator(".")) result.attribute = reader_.expect_name();
    return result;
  }

  JinjaTarget target(bool with_attribute, std::string_view end_name) {
    const JinjaTokenReader::Level level(reader_);
    JinjaTarget first = single_target(with_attribute);
    if (!reader_.at_operator(",")) return first;
    JinjaTarget result;
    result.is_tuple = true;
    result.parts.push_back(std::move(first));
    while (reader_.skip_operator(",")) {
      const bool ends = reader_.at_operator(")") || reader_.at_operator("=") ||
                        reader_.at(Token::kBlockEnd) ||
                        (!end_name.empty() && reader_.at_name(end_name));
      if (ends) break;
      result.parts.push_back(single_target(with_attribute));
    }
    return result;
  }

  JinjaStatementPtr set_block(int line) {
    JinjaStatementPtr statement = make(Kind::kSet, line);
    statement->target = target(/*with_attribute=*/true, {});
    if (reader_.skip_operator("=")) {
      statement->expression = expressions_.tuple(true);
      end_of_tag();
      return statement;
    }
    statement->kind = Kind::kSetBlock;
    if (reader_.skip_operator("|")) statement->expression = expressions_.filter_chain();
    statement->body = body_outside_loops({"endset"});
    finish_block();
    return statement;
  }

  // break and continue do not reach a loop around a body that is rendered to a string.
  JinjaBody body_outside_loops(Names ends) {
    const int loops = std::exchange(num_loops_, 0);
    JinjaBody body = body_until(ends);
    num_loops_ = loops;
    return body;
  }

  std::vector<JinjaMacroParameter> signature() {
    std::vector<JinjaMacroParameter> parameters;
    reader_.expect_operator("(");
    while (!reader_.at_operator(")")) {
      if (!parameters.empty()) {
        reader_.expect_operator(",");
        if (reader_.at_operator(")")) break;
      }
      JinjaMacroParameter parameter;
      parameter.name = reader_.expect_name();
      if (reader_.skip_operator("=")) {
        parameter.otherwise = expressions_.expression();
      } else if (!parameters.empty() && parameters.back().otherwise) {
        reader_.fail("non-default argument follows default argument");
      }
      parameters.push_back(std::move(parameter));
    }
    reader_.expect_operator(")");
    return parameters;
  }

  // Signature, for a call block the call, and body; notes which special names they use.
  void macro_body(JinjaStatement& macro, bool with_signature, std::string_view end) {
    const auto outer = std::exchange(expressions_.special_names, {});
    if (with_signature) macro.parameters = signature();
    if (macro.kind == Kind::kCallBlock) {
      macro.expression = expressions_.expression();
      if (macro.expression->kind != JinjaExpression::Kind::kCall) reader_.fail("expected a call");
    }
    macro.body = body_outside_loops({end});
    finish_block();
    macro.uses_caller = expressions_.special_names.caller;
    macro.uses_varargs = expressions_.special_names.varargs;
    macro.uses_kwargs = expressions_.special_names.kwargs;
    expressions_.special_names = outer;
  }

  JinjaStatementPtr macro_block(int line) {
    JinjaStatementPtr statement = make(Kind::kMacro, line);
    statement->text = reader_.expect_name();
    macro_body(*statement, /*with_signature=*/true, "endmacro");
    return statement;
  }

  JinjaStatementPtr call_block(int line) {
    JinjaStatementPtr statement = make(Kind::kCallBlock, line);
    const bool with_signature = reader_.at_operator("(");
    macro_body(*statement, with_signature, "endcall");
    return statement;
  }

  JinjaStatementPtr with_block(int line) {
    JinjaStatementPtr statement = make(Kind::kWith, line);
    while (!reader_.at(Token::kBlockEnd)) {
      if (!statement->assignments.empty()) reader_.expect_operator(",");
      JinjaStatement::Assignment assignment;
      assignment.target = single_target(/*with_attribute=*/false);
      reader_.expect_operator("=");
      assignment.value = expressions_.expression();
      statement->assignments.push_back(std::move(assignment));
    }
    statement->body = body_until({"endwith"});
    finish_block();
    return statement;
  }

  JinjaTokenReader reader_;
  JinjaExpressionParser expressions_;
  int num_loops_ = 0;  // loops around the current statement that break can end
};

}  // namespace

std::string JinjaTokenReader::describe() const {
  const JinjaToken& token = peek();
  switch (token.kind) {
    case Token::kData:
      return "text";
    case Token::kVariableBegin:
      return "'{{'";
    case Token::kVariableEnd:
      return "'}}'";
    case Token::kBlockBegin:
      return "'{%'";
    case Token::kBlockEnd:
      return "'%}'";
    case Token::kName:
    case Token::kOperator:
    case Token::kInteger:
    case Token::kFloat:
      return "'" + token.text + "'";
    case Token::kString:
      return "a string";
    case Token::kEnd:
      return "the end of the template";
  }
  return "";
}

JinjaBody parse_jinja(std::string_view source) { return StatementParser(source).run(); }

}  // namespace phalanx
