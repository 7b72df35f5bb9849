// Block tables over the allocator and the prefix cache.
#include "runtime/scheduler/kv_pool.h"

#include <algorithm>

#include "runtime/base/check.h"

namespace phalanx {

KvPool::KvPool(int64_t num_blocks, int64_t block_tokens, bool prefix_cache)
    : allocator_(num_blocks),
      cache_(prefix_cache ? num_blocks : 1, block_tokens),
      block_tokens_(block_tokens),
      uses_cache_(prefix_cache) {}

std::span<const int32_t> KvPool::block_of(std::span<const int32_t> tokens,
                                          size_t block_index) const {
  const auto size = static_cast<size_t>(block_tokens_);
  return tokens.subspan(block_index * size, size);
}

void KvPool::match(uint64_t salt, std::span<const int32_t> tokens, PrefixMatch* match) const {
  match->blocks.clear();
  match->contents.clear();
  match->num_unreferenced = 0;
  if (!uses_cache_ || tokens.empty()) return;
  const size_t max_blocks = (tokens.size() - 1) / static_cast<size_t>(block_tokens_);
  ContentId parent;
  for (size_t i = 0; i < max_blocks; ++i) {
    const auto entry = cache_.find(parent, salt, block_of(tokens, i));
    if (!entry) return;
    match->blocks.push_back(entry->block);
    match->contents.push_back(entry->content);
    if (allocator_.num_references(entry->block) == 0) ++match->num_unreferenced;
    parent = entry->content;
  }
}

void KvPool::adopt(const PrefixMatch& match, BlockTable* table) {
  PHALANX_CHECK(table->blocks.empty(), "a prefix for a table that has blocks");
  for (const BlockId block : match.blocks) {
    if (allocator_.num_references(block) == 0) --num_cached_;
    allocator_.share(block);
  }
  table->blocks = match.blocks;
  table->contents = match.contents;
}

void KvPool::extend(int64_t count, BlockTable* table) {
  PHALANX_CHECK_LE(count, num_free(), "more blocks wanted than are free");
  for (; count > 0; --count) {
    const BlockId block = allocator_.allocate();
    if (uses_cache_ && cache_.holds(block)) {
      cache_.forget(block);
      --num_cached_;
    }
    table->blocks.push_back(block);
  }
}

void KvPool::record(uint64_t salt, std::span<const int32_t> tokens, int64_t num_computed,
                    BlockTable* table) {
  if (!uses_cache_) return;
  const size_t num_filled = std::min(tokens.size(), static_cast<size_t>(num_computed)) /
                            static_cast<size_t>(block_tokens_);
  while (table->contents.size() < num_filled) {
    const size_t i = table->contents.size();
    const ContentId parent = i == 0 ? ContentId() : table->contents.back();
    table->contents.push_back(cache_.insert(parent, salt, block_of(tokens, i), table->blocks[i]));
  }
}

void KvPool::release(uint64_t salt, std::span<const int32_t> tokens, BlockTable* table) {
  while (!table->blocks.empty()) {
    const size_t i = table->blocks.size() - 1;
    const BlockId block = table->blocks[i];
    table->blocks.pop_back();
    // Another block had this content when it was recorded; if that one is gone, this one serves.
    if (i < table->contents.size() && allocator_.num_references(block) == 1)
      cache_.restore(table->contents[i], i == 0 ? ContentId() : table->contents[i - 1], salt,
                     block_of(tokens, i), block);
    const bool reusable = uses_cache_ && cache_.holds(block);
    if (allocator_.release(block, reusable) && reusable) ++num_cached_;
  }
  table->contents.clear();
}

}  // namespace phalanx
