// The `loop` variable of a running for statement.
// Called by the interpreter, which owns and advances it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/server/jinja_value.h"

namespace phalanx {

struct JinjaStatement;
class JinjaScope;

struct JinjaLoop {
  std::vector<JinjaValue> items;
  int depth_of_items = 0;                     ///< levels of containers in items
  size_t index = 0;                           ///< of the current item
  int nesting = 0;                            ///< loop.depth0
  std::optional<std::string> last_changed;    ///< what loop.changed saw last
  const JinjaStatement* recursive = nullptr;  ///< the statement, when it is `recursive`
  std::weak_ptr<JinjaScope> scope;            ///< where it stands
};

}  // namespace phalanx
