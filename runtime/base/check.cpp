// The failing half of check.h, kept out of line so that checks stay small at their call sites.
#include "runtime/base/check.h"

namespace phalanx::check_internal {

void fail(std::string_view condition, std::string_view message, const Place& where) {
  std::ostringstream text;
  text << where.file << ":" << where.line << " in " << where.function
       << ": check failed: " << condition;
  if (!message.empty()) text << ": " << message;
  throw InternalError(text.str());
}

}  // namespace phalanx::check_internal
