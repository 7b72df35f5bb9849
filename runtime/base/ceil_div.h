// Division that rounds up, and multiples. Called wherever work is cut into pieces and memory laid
// out.
#pragma once

#include <cstdint>

namespace phalanx {

/// The smallest n with n * b >= a; a >= 0, b > 0.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// The smallest multiple of b that is not below a; a >= 0, b > 0.
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace phalanx
