// A sorted list of tunings, searched by halves: a model has a few dozen.
#include "kernels/cpu/linear_tuning.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "runtime/base/check.h"

namespace phalanx::kernels::cpu {

int row_bucket(int64_t num_rows) {
  // Bucket b > 0 ends at 2^b rows.
  return std::min<int>(static_cast<int>(std::bit_width(static_cast<uint64_t>(num_rows - 1))),
                       kNumRowBuckets - 1);
}

std::string row_bucket_name(int bucket) {
  const RowBucket& rows = kRowBuckets[bucket];
  std::string name = std::to_string(rows.least);
  if (bucket == kNumRowBuckets - 1) return name + "+";
  return rows.most > rows.least ? name + "-" + std::to_string(rows.most) : name;
}

LinearKey linear_key(const PackedMatrix& w, int64_t num_rows, bool is_gated) {
  return {w.format(),     w.num_rows(), w.num_cols(),
          w.group_size(), is_gated,     row_bucket(std::max<int64_t>(num_rows, 1))};
}

LinearTunings::LinearTunings(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return a.key < b.key; });
  const auto twice =
      std::adjacent_find(entries_.begin(), entries_.end(),
                         [](const Entry& a, const Entry& b) { return a.key == b.key; });
  PHALANX_CHECK(twice == entries_.end(), "two tunings of one product");
}

LinearTuning LinearTunings::find(const LinearKey& key) const {
  const auto found =
      std::lower_bound(entries_.begin(), entries_.end(), key,
                       [](const Entry& entry, const LinearKey& k) { return entry.key < k; });
  return found != entries_.end() && found->key == key ? found->tuning : LinearTuning{};
}

}  // namespace phalanx::kernels::cpu
