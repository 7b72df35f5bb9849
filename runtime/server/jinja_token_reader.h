// A cursor over the tokens of a template, with the depth guard of the recursive parsers.
// Called by the expression and the statement parser.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "runtime/server/jinja_lexer.h"
#include "runtime/server/jinja_value.h"

namespace phalanx {

class JinjaTokenReader {
 public:
  explicit JinjaTokenReader(std::vector<JinjaToken> tokens) : tokens_(std::move(tokens)) {}

  const JinjaToken& peek(size_t ahead = 0) const {
    const size_t index = position_ + ahead;
    return tokens_[index < tokens_.size() ? index : tokens_.size() - 1];
  }
  JinjaToken next() {
    JinjaToken token = peek();
    if (position_ + 1 < tokens_.size()) ++position_;
    return token;
  }
  bool at(JinjaToken::Kind kind) const { return peek().kind == kind; }
  bool at_operator(std::string_view text) const {
    return at(JinjaToken::Kind::kOperator) && peek().text == text;
  }
  bool at_name(std::string_view text) const {
    return at(JinjaToken::Kind::kName) && peek().text == text;
  }
  bool skip_operator(std::string_view text) {
    if (!at_operator(text)) return false;
    next();
    return true;
  }
  bool skip_name(std::string_view text) {
    if (!at_name(text)) return false;
    next();
    return true;
  }
  void expect_operator(std::string_view text) {
    if (!skip_operator(text)) fail("expected '" + std::string(text) + "', got " + describe());
  }
  std::string expect_name() {
    if (!at(JinjaToken::Kind::kName)) fail("expected a name, got " + describe());
    return next().text;
  }
  [[noreturn]] void fail(const std::string& message) const {
    throw JinjaError(message, peek().line);
  }
  std::string describe() const;

  /// Counts one level of recursion while it lives.
  class Level {
   public:
    explicit Level(JinjaTokenReader& reader) : reader_(reader) {
      if (++reader_.level_ > kMaxLevels) reader_.fail("nested too deeply");
    }
    ~Level() { --reader_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    JinjaTokenReader& reader_;
  };

 private:
  static constexpr int kMaxLevels = 120;
  std::vector<JinjaToken> tokens_;
  size_t position_ = 0;
  int level_ = 0;
};

}  // namespace phalanx
