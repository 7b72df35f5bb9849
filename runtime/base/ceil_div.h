// Division that rounds up. Called wherever work is cut into pieces.
#pragma once

#include <cstdint>

namespace phalanx {

/// The smallest n with n * b >= a; a >= 0, b > 0.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace phalanx
