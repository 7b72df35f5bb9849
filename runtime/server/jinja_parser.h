// Tokens to the parsed form of a template.
// Called by ChatTemplate::parse.
#pragma once

#include <string_view>

#include "runtime/server/jinja_ast.h"

namespace phalanx {

/// The statements of a template: the Jinja subset that chat templates use.
/// Throws JinjaError with the line. Nesting is bounded, so freeing the result is safe.
JinjaBody parse_jinja(std::string_view source);

}  // namespace phalanx
