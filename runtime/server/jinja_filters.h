// The tables of the built-in filters.
// Called by apply_jinja_filter.
#pragma once

#include <string_view>

#include "runtime/server/jinja_interpreter.h"

namespace phalanx {

using JinjaFilter = JinjaValue (*)(JinjaInterpreter&, const JinjaValue&, const JinjaArguments&);

/// A filter on sequences, or nullptr.
JinjaFilter find_jinja_sequence_filter(std::string_view name);

}  // namespace phalanx
