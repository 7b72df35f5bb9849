// Decides which row operators may share a walk, and walks. Called by cpu_operators.
#include "kernels/cpu/row_chain.h"

#include <algorithm>

namespace phalanx::kernels::cpu {
namespace {

/// Rows taken through the whole chain before the next: what they touch stays in the second-level
/// cache.
constexpr int64_t kRowsAtATime = 16;

/// No row of one touches a byte that another row of the other does (the same row may).
bool rows_are_apart(const RowMemory& a, const RowMemory& b, int64_t num_rows) {
  if (a.row_bytes == 0 || b.row_bytes == 0) return true;
  const int64_t offset =
      static_cast<const std::byte*>(b.first) - static_cast<const std::byte*>(a.first);
  const int64_t last = num_rows - 1;
  if (offset >= last * a.stride_bytes + a.row_bytes) return true;
  if (-offset >= last * b.stride_bytes + b.row_bytes) return true;
  const int64_t stride = a.stride_bytes;
  return stride == b.stride_bytes && a.row_bytes - stride <= offset &&
         offset <= stride - b.row_bytes;
}

}  // namespace

bool RowChain::is_independent(std::span<const RowMemory> memory) const {
  for (const RowMemory& a : memory_) {
    for (const RowMemory& b : memory) {
      if ((a.is_written || b.is_written) && !rows_are_apart(a, b, num_rows_)) return false;
    }
  }
  return true;
}

RowChain::Link& RowChain::append(int64_t num_rows, int64_t cost,
                                 std::span<const RowMemory> memory) {
  if (num_rows != num_rows_ || !is_independent(memory)) run();
  num_rows_ = num_rows;
  cost_ += cost;
  memory_.insert(memory_.end(), memory.begin(), memory.end());
  return links_.emplace_back();
}

void RowChain::run() {
  if (links_.empty()) return;
  const auto walk = [&](int64_t begin, int64_t end) {
    uint64_t* tally = team_.tally();
    for (int64_t first = begin; first < end; first += kRowsAtATime) {
      for (const Link& link : links_) {
        link.run(link.body, first, std::min(first + kRowsAtATime, end));
        count_piece(tally);
      }
    }
  };
  team_.set_label("rows");
  if (num_rows_ * cost_ < kCostWorthForking) {
    walk(0, num_rows_);
  } else {
    team_.split(num_rows_, 1, walk);
  }
  links_.clear();
  memory_.clear();
  num_rows_ = 0;
  cost_ = 0;
}

}  // namespace phalanx::kernels::cpu
