// The check of a number in the configuration. Called by worker_config and server_config.
#pragma once

#include <sstream>
#include <string>

#include "runtime/base/result.h"

namespace phalanx::launcher {

/// Errors: kInvalidArgument, "field = value: allowed low..high".
template <typename Value>
Status check_range(const std::string& field, Value value, Value low, Value high) {
  if (value >= low && value <= high) return {};
  std::ostringstream text;
  text << field << " = " << value << ": allowed " << low << ".." << high;
  return invalid_argument(text.str());
}

}  // namespace phalanx::launcher
