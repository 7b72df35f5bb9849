// The size of a prefill chunk.
#include "runtime/scheduler/chunk_size.h"

#include <algorithm>

#include "runtime/base/check.h"

namespace phalanx {

int64_t ChunkSize::operator()(int64_t prefix, int64_t remaining, int64_t budget,
                              bool has_company) const {
  PHALANX_CHECK_GT(remaining, 0, "nothing to compute");
  PHALANX_CHECK_GT(budget, 0, "no budget to compute with");
  const int64_t most = std::min(remaining, budget);
  if (!has_company) return most;
  const int64_t balanced =
      std::max<int64_t>(1, max_chunk_tokens * kBalancePrefix / (kBalancePrefix + prefix));
  if (balanced >= most) return most;
  const int64_t aligned_end = (prefix + balanced) / block_tokens * block_tokens;
  return aligned_end > prefix ? aligned_end - prefix : balanced;
}

}  // namespace phalanx
