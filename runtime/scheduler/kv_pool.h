// The global pool of KV blocks with its prefix cache, and the block tables of sequences. Called by
// the scheduler.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/ceil_div.h"
#include "runtime/scheduler/block_allocator.h"
#include "runtime/scheduler/prefix_cache.h"

namespace phalanx {

/// The blocks of one sequence: block i holds positions [i * block_tokens, (i + 1) * block_tokens).
struct BlockTable {
  std::vector<BlockId> blocks;
  std::vector<ContentId> contents;  ///< names of the first blocks, as far as they are recorded
};

/// Blocks that hold a prefix of a prompt.
struct PrefixMatch {
  std::vector<BlockId> blocks;
  std::vector<ContentId> contents;
  int64_t num_unreferenced = 0;  ///< of those, how many nobody uses: taking them uses up free ones
};

constexpr int64_t blocks_for_tokens(int64_t num_tokens, int64_t block_tokens) {
  return ceil_div(num_tokens, block_tokens);
}

/// Blocks that a planned step still reads may be freed and planned for another sequence at once:
/// every rank executes plans in order, so the later step's writes come after the earlier step's
/// reads. For the same reason a block can be found in the cache as soon as the step that fills it
/// is planned (but not within that step). One thread.
class KvPool {
 public:
  KvPool(int64_t num_blocks, int64_t block_tokens, bool prefix_cache);

  int64_t num_blocks() const { return allocator_.num_blocks(); }
  int64_t block_tokens() const { return block_tokens_; }
  int64_t num_free() const { return allocator_.num_free(); }
  int64_t num_cached() const { return num_cached_; }  ///< free blocks with reusable content
  int64_t blocks_for(int64_t num_tokens) const {
    return blocks_for_tokens(num_tokens, block_tokens_);
  }
  int32_t num_references(BlockId block) const { return allocator_.num_references(block); }

  /// Finds cached blocks for the first tokens, never all of them: at least one token is left to
  /// compute, since its logits are needed.
  void match(uint64_t salt, std::span<const int32_t> tokens, PrefixMatch* match) const;

  /// Gives the matched blocks to an empty table.
  void adopt(const PrefixMatch& match, BlockTable* table);

  /// Appends `count` blocks of undefined content; count <= num_free(). Cached content that was
  /// unused the longest is lost first, of one sequence the tail before the head.
  void extend(int64_t count, BlockTable* table);

  /// Enters full blocks into the cache: those whose tokens are all known and planned.
  /// tokens: the sequence's known tokens; num_computed: positions planned.
  void record(uint64_t salt, std::span<const int32_t> tokens, int64_t num_computed,
              BlockTable* table);

  /// Gives all blocks back, tail first.
  void release(uint64_t salt, std::span<const int32_t> tokens, BlockTable* table);

 private:
  std::span<const int32_t> block_of(std::span<const int32_t> tokens, size_t block_index) const;

  BlockAllocator allocator_;
  PrefixCache cache_;
  int64_t block_tokens_;
  bool uses_cache_;
  int64_t num_cached_ = 0;
};

}  // namespace phalanx
