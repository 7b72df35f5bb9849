// Reference counts and the line of free blocks, a doubly linked ring in two arrays.
#include "runtime/scheduler/block_allocator.h"

#include <limits>

#include "runtime/base/check.h"

namespace phalanx {

BlockAllocator::BlockAllocator(int64_t num_blocks) {
  PHALANX_CHECK_GT(num_blocks, 0, "num_blocks");
  PHALANX_CHECK_LT(num_blocks, std::numeric_limits<int32_t>::max(), "num_blocks");
  references_.resize(static_cast<size_t>(num_blocks));
  next_.resize(references_.size() + 1);
  previous_.resize(references_.size() + 1);
  const auto end = static_cast<int32_t>(num_blocks);
  next_[references_.size()] = previous_[references_.size()] = end;
  for (int32_t block = 0; block < end; ++block) link(block, end);
}

size_t BlockAllocator::index(BlockId block) const {
  PHALANX_CHECK(block.value >= 0 && block.value < static_cast<int32_t>(references_.size()),
                "no such block");
  return static_cast<size_t>(block.value);
}

void BlockAllocator::link(int32_t block, int32_t before) {
  const int32_t after = previous_[static_cast<size_t>(before)];
  next_[static_cast<size_t>(block)] = before;
  previous_[static_cast<size_t>(block)] = after;
  next_[static_cast<size_t>(after)] = block;
  previous_[static_cast<size_t>(before)] = block;
  ++num_free_;
}

void BlockAllocator::unlink(int32_t block) {
  const int32_t after = previous_[static_cast<size_t>(block)];
  const int32_t before = next_[static_cast<size_t>(block)];
  next_[static_cast<size_t>(after)] = before;
  previous_[static_cast<size_t>(before)] = after;
  --num_free_;
}

BlockId BlockAllocator::allocate() {
  PHALANX_CHECK_GT(num_free_, 0, "no block is free");
  const BlockId block{next_[references_.size()]};
  unlink(block.value);
  references_[index(block)] = 1;
  return block;
}

void BlockAllocator::share(BlockId block) {
  if (references_[index(block)]++ == 0) unlink(block.value);
}

bool BlockAllocator::release(BlockId block, bool reusable) {
  int32_t& references = references_[index(block)];
  PHALANX_CHECK_GT(references, 0, "a block released more often than it was taken");
  if (--references > 0) return false;
  const auto end = static_cast<int32_t>(references_.size());
  link(block.value, reusable ? end : next_[references_.size()]);
  return true;
}

}  // namespace phalanx
