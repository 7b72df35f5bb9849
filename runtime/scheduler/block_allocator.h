// Who holds which KV block: reference counts and the order in which free blocks are used again.
// Called by kv_pool.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace phalanx {

/// Index of a KV block in the global pool; the same block on every rank.
struct BlockId {
  int32_t value = -1;
  auto operator<=>(const BlockId&) const = default;
};

/// Every operation is O(1). One thread.
class BlockAllocator {
 public:
  /// All blocks are free; they are first used in ascending order.
  explicit BlockAllocator(int64_t num_blocks);

  int64_t num_blocks() const { return static_cast<int64_t>(references_.size()); }
  int64_t num_free() const { return num_free_; }
  int32_t num_references(BlockId block) const { return references_[index(block)]; }

  /// The first block in the line of free blocks, with one reference. Errors: InternalError when
  /// none is free.
  BlockId allocate();

  /// One more reference. A free block leaves the line: its content is wanted again.
  void share(BlockId block);

  /// One reference less; true when it was the last one, and the block is free. Then it joins the
  /// line of free blocks at its end if `reusable` (its content may be wanted again), else in front.
  bool release(BlockId block, bool reusable);

 private:
  size_t index(BlockId block) const;
  void link(int32_t block, int32_t before);
  void unlink(int32_t block);

  std::vector<int32_t> references_;
  // The line of free blocks, a ring through the entry num_blocks(), which is no block.
  std::vector<int32_t> next_;
  std::vector<int32_t> previous_;
  int64_t num_free_ = 0;
};

}  // namespace phalanx
