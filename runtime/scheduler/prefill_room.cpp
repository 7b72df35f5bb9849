// The sizes of a step's prefill chunks.
#include "runtime/scheduler/prefill_room.h"

#include <algorithm>

#include "runtime/base/check.h"

namespace phalanx {

int64_t PrefillRoom::take(int64_t prefix, int64_t remaining, int64_t budget, bool others_wait) {
  PHALANX_CHECK_GT(remaining, 0, "nothing to compute");
  PHALANX_CHECK_GT(budget, 0, "no budget to compute with");
  PHALANX_CHECK(has_room(), "the step's prompts have taken their room");
  is_unused_ = false;
  const int64_t most = std::min(remaining, budget);
  if (!is_bounded_) return most;
  const auto rows_for = [&](int64_t cost) {
    return std::max<int64_t>(1, cost * kBalancePrefix / (kBalancePrefix + prefix));
  };
  int64_t rows = most;
  if (rows_for(left_) < remaining) {
    const int64_t share = rows_for(others_wait ? left_ / 2 : left_);
    rows = std::min(share, budget);
    const int64_t aligned_end = (prefix + rows) / block_tokens_ * block_tokens_;
    if (rows == share && aligned_end > prefix) rows = aligned_end - prefix;
  }
  left_ -= (rows * (kBalancePrefix + prefix) + kBalancePrefix - 1) / kBalancePrefix;
  return rows;
}

}  // namespace phalanx
