// Template source to tokens, with the white space rules of trim_blocks and lstrip_blocks.
// Called by the template parser.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace phalanx {

struct JinjaToken {
  enum class Kind {
    kData,  ///< text between tags
    kVariableBegin,
    kVariableEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,  ///< `text` is unescaped
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind = Kind::kEnd;
  std::string text;
  int64_t integer = 0;
  double real = 0.0;
  int line = 1;
};

/// The tokens of a template, the last one kEnd. As jinja2 does with trim_blocks, lstrip_blocks and
/// no trailing newline kept. Throws JinjaError with the line. O(size of the source).
std::vector<JinjaToken> lex_jinja(std::string_view source);

/// White space as Python's str.isspace and \s of its regular expressions know it.
bool is_python_space(char32_t code_point);

}  // namespace phalanx
