// How many prompt tokens of one sequence a step computes. Called by the scheduler.
#pragma once

#include <cstdint>

namespace phalanx {

/// Chunk of a prefill. Without company a chunk takes what the budget has. With company (decodes
/// that wait for the step to end, or stages that wait for each other) it is at most
///   max_chunk_tokens * kBalancePrefix / (kBalancePrefix + prefix)
/// since a row costs about (1 + prefix / kBalancePrefix) times a row without a prefix: attention
/// grows with the prefix, all else does not. Such a chunk ends at a block boundary where it can.
struct ChunkSize {
  /// The prefix at which attention costs as much as all other work on a row: 1,300 tokens in the
  /// demo model, some 30,000 in models of 8 G parameters; in between on a logarithmic scale.
  static constexpr int64_t kBalancePrefix = 8192;

  int64_t max_chunk_tokens = 0;
  int64_t block_tokens = 0;

  /// prefix: tokens computed; remaining, budget: at least one. In [1, min(remaining, budget)].
  int64_t operator()(int64_t prefix, int64_t remaining, int64_t budget, bool has_company) const;
};

}  // namespace phalanx
