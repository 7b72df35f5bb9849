// A chained hash table whose entries live in arrays indexed by block.
#include "runtime/scheduler/prefix_cache.h"

#include <algorithm>
#include <bit>

#include "runtime/base/check.h"
#include "runtime/scheduler/hash64.h"

namespace phalanx {
PrefixCache::PrefixCache(int64_t num_blocks, int64_t block_tokens, uint64_t hash_mask)
    : block_tokens_(block_tokens), hash_mask_(hash_mask) {
  PHALANX_CHECK_GT(block_tokens, 0, "block_tokens");
  slots_.resize(static_cast<size_t>(num_blocks));
  tokens_.resize(static_cast<size_t>(num_blocks * block_tokens));
  buckets_.assign(std::bit_ceil(static_cast<size_t>(num_blocks)), -1);
}

uint64_t PrefixCache::content_hash(ContentId parent, uint64_t salt,
                                   std::span<const int32_t> tokens) const {
  return hash64_bytes(hash64_combine(salt, parent.value), std::as_bytes(tokens)) & hash_mask_;
}

std::span<const int32_t> PrefixCache::tokens_of(int32_t block) const {
  return std::span(tokens_).subspan(static_cast<size_t>(block * block_tokens_),
                                    static_cast<size_t>(block_tokens_));
}

int32_t PrefixCache::find_block(uint64_t hash, ContentId parent, uint64_t salt,
                                std::span<const int32_t> tokens) const {
  PHALANX_CHECK_EQ(static_cast<int64_t>(tokens.size()), block_tokens_,
                   "only full blocks are cached");
  int32_t block = buckets_[hash & (buckets_.size() - 1)];
  while (block >= 0) {
    const Slot& entry = slots_[static_cast<size_t>(block)];
    if (entry.hash == hash && entry.parent == parent && entry.salt == salt &&
        std::ranges::equal(tokens_of(block), tokens))
      return block;
    block = entry.next;
  }
  return -1;
}

std::optional<PrefixCache::Entry> PrefixCache::find(ContentId parent, uint64_t salt,
                                                    std::span<const int32_t> tokens) const {
  const int32_t block = find_block(content_hash(parent, salt, tokens), parent, salt, tokens);
  if (block < 0) return std::nullopt;
  return Entry{slot(BlockId{block}).content, BlockId{block}};
}

ContentId PrefixCache::insert(ContentId parent, uint64_t salt, std::span<const int32_t> tokens,
                              BlockId block) {
  const uint64_t hash = content_hash(parent, salt, tokens);
  if (const int32_t same = find_block(hash, parent, salt, tokens); same >= 0)
    return slot(BlockId{same}).content;
  const ContentId content{++last_content_};
  enter(content, parent, salt, hash, tokens, block);
  return content;
}

void PrefixCache::restore(ContentId content, ContentId parent, uint64_t salt,
                          std::span<const int32_t> tokens, BlockId block) {
  if (holds(block)) return;
  const uint64_t hash = content_hash(parent, salt, tokens);
  if (find_block(hash, parent, salt, tokens) < 0) enter(content, parent, salt, hash, tokens, block);
}

void PrefixCache::enter(ContentId content, ContentId parent, uint64_t salt, uint64_t hash,
                        std::span<const int32_t> tokens, BlockId block) {
  PHALANX_CHECK(!holds(block), "a block with two contents");
  std::ranges::copy(tokens, tokens_.begin() + block.value * block_tokens_);
  int32_t& first = buckets_[hash & (buckets_.size() - 1)];
  slots_[static_cast<size_t>(block.value)] = {content, parent, salt, hash, first};
  first = block.value;
  ++num_entries_;
}

void PrefixCache::forget(BlockId block) {
  if (!holds(block)) return;
  Slot& entry = slots_[static_cast<size_t>(block.value)];
  int32_t* link = &buckets_[entry.hash & (buckets_.size() - 1)];
  while (*link != block.value) link = &slots_[static_cast<size_t>(*link)].next;
  *link = entry.next;
  entry = Slot();
  --num_entries_;
}

}  // namespace phalanx
