// How many prompt tokens a step computes, and of whom. Used by the scheduler.
#pragma once

#include <cstdint>

namespace phalanx {

/// What the prompts of one step may cost together, and how much of it each gets. Without company
/// there is no bound but the step's rows. With company (decodes that wait for the step to end, or
/// stages that wait for each other) all chunks of a step cost at most max_chunk_tokens rows without
/// a prefix. A row costs 1 + prefix / kBalancePrefix of those: attention grows with the prefix, all
/// else does not. A prompt that the room cannot finish leaves half of it to others that wait, so
/// that short prompts are not held up by a long one. Such a chunk ends at a block boundary where it
/// can.
class PrefillRoom {
 public:
  /// The prefix at which attention costs as much as all other work on a row: 1,300 tokens in the
  /// demo model, some 30,000 in models of 8 G parameters; in between on a logarithmic scale.
  static constexpr int64_t kBalancePrefix = 8192;

  PrefillRoom() = default;
  PrefillRoom(int64_t max_chunk_tokens, int64_t block_tokens, bool has_company)
      : left_(max_chunk_tokens), block_tokens_(block_tokens), is_bounded_(has_company) {}

  /// Whether another chunk is worth starting: the first always, a later one from a block on.
  bool has_room() const { return !is_bounded_ || is_unused_ || left_ >= block_tokens_; }

  /// Rows of a prompt's next chunk, taken from the room. prefix: tokens computed; remaining,
  /// budget: at least one; others_wait: for a part of the room. In [1, min(remaining, budget)].
  /// Requires has_room().
  int64_t take(int64_t prefix, int64_t remaining, int64_t budget, bool others_wait);

 private:
  int64_t left_ = 0;  ///< rows without a prefix
  int64_t block_tokens_ = 1;
  bool is_bounded_ = false;
  bool is_unused_ = true;
};

}  // namespace phalanx
