// Which block holds the KV of which tokens after which prefix. Called by kv_pool.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "runtime/scheduler/block_allocator.h"

namespace phalanx {

/// Names the content of a full block: its tokens, the content before it, and the salt. A name is
/// never given to another content, so equal names mean equal prefixes: no hash is trusted.
struct ContentId {
  uint64_t value = 0;  ///< 0: what is before a sequence's first block
  auto operator<=>(const ContentId&) const = default;
};

/// A table of full blocks by (parent content, salt, tokens). Found by hash, decided by comparison.
/// Memory is fixed: one entry a block. One thread.
class PrefixCache {
 public:
  /// hash_mask: bits of the hash that are used; a test narrows it to make hashes collide.
  PrefixCache(int64_t num_blocks, int64_t block_tokens, uint64_t hash_mask = ~uint64_t{0});

  struct Entry {
    ContentId content;
    BlockId block;
  };

  /// tokens: exactly block_tokens of them, here and below.
  std::optional<Entry> find(ContentId parent, uint64_t salt, std::span<const int32_t> tokens) const;

  /// Enters a block that is in no entry. When another block has the same content, that one stays
  /// and its name is returned.
  ContentId insert(ContentId parent, uint64_t salt, std::span<const int32_t> tokens, BlockId block);

  /// Enters `block` under a name that was given before and may have lost its entry, so that
  /// contents which have it as their parent are found again. Does nothing when the block has an
  /// entry or another block has the same content.
  void restore(ContentId content, ContentId parent, uint64_t salt, std::span<const int32_t> tokens,
               BlockId block);

  /// Removes the block's entry, if it has one.
  void forget(BlockId block);

  bool holds(BlockId block) const { return slot(block).content.value != 0; }
  int64_t num_entries() const { return num_entries_; }

 private:
  struct Slot {
    ContentId content;  // 0: no entry
    ContentId parent;
    uint64_t salt = 0;
    uint64_t hash = 0;
    int32_t next = -1;  // block of the next entry in the same bucket
  };

  const Slot& slot(BlockId block) const { return slots_[static_cast<size_t>(block.value)]; }
  std::span<const int32_t> tokens_of(int32_t block) const;
  int32_t find_block(uint64_t hash, ContentId parent, uint64_t salt,
                     std::span<const int32_t> tokens) const;
  void enter(ContentId content, ContentId parent, uint64_t salt, uint64_t hash,
             std::span<const int32_t> tokens, BlockId block);

  uint64_t content_hash(ContentId parent, uint64_t salt, std::span<const int32_t> tokens) const;

  int64_t block_tokens_;
  uint64_t hash_mask_;
  std::vector<Slot> slots_;       // by block
  std::vector<int32_t> tokens_;   // by block, block_tokens_ each
  std::vector<int32_t> buckets_;  // first block, -1: none; a power of two
  uint64_t last_content_ = 0;
  int64_t num_entries_ = 0;
};

}  // namespace phalanx
