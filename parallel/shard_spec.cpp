// How tensor parallelism cuts a dimension. Used by the engine builder, which checks, and by the
// loader, which slices.
#include "parallel/shard_spec.h"

#include <algorithm>
#include <string>

#include "runtime/base/check.h"

namespace phalanx::parallel {

const char* shard_axis_name(ShardAxis axis) {
  switch (axis) {
    case ShardAxis::kReplicated:
      return "replicated";
    case ShardAxis::kColumn:
      return "column";
    case ShardAxis::kRow:
      return "row";
    case ShardAxis::kKvColumn:
      return "kv_column";
  }
  return "unknown";
}

bool divides(ShardAxis axis, int64_t extent_units, int tp_size) {
  if (extent_units < 1 || tp_size < 1) return false;
  switch (axis) {
    case ShardAxis::kReplicated:
      return true;
    case ShardAxis::kColumn:
    case ShardAxis::kRow:
      return extent_units % tp_size == 0;
    case ShardAxis::kKvColumn:
      return extent_units % tp_size == 0 || tp_size % extent_units == 0;
  }
  return false;
}

Slice shard_slice(ShardAxis axis, int64_t extent_units, int tp_size, int tp_rank) {
  PHALANX_CHECK(tp_rank >= 0 && tp_rank < tp_size, "tp_rank outside its group");
  PHALANX_CHECK(divides(axis, extent_units, tp_size),
                std::string(shard_axis_name(axis)) + " extent " + std::to_string(extent_units) +
                    " cannot be cut over tp_size " + std::to_string(tp_size));
  switch (axis) {
    case ShardAxis::kReplicated:
      return {0, extent_units};
    case ShardAxis::kColumn:
    case ShardAxis::kRow:
    case ShardAxis::kKvColumn:
      break;
  }
  if (extent_units % tp_size != 0) {  // fewer KV heads than ranks: neighbours hold the same head
    const int64_t ranks_per_unit = tp_size / extent_units;
    const int64_t unit = tp_rank / ranks_per_unit;
    return {unit, unit + 1};
  }
  const int64_t share = extent_units / tp_size;
  return {tp_rank * share, (tp_rank + 1) * share};
}

Slice padded_slice(int64_t extent, int tp_size, int tp_rank) {
  PHALANX_CHECK_GE(extent, 0, "a negative extent");
  PHALANX_CHECK(tp_rank >= 0 && tp_rank < tp_size, "tp_rank outside its group");
  const int64_t share = extent / tp_size + (extent % tp_size != 0 ? 1 : 0);
  return {std::min(extent, tp_rank * share), std::min(extent, (tp_rank + 1) * share)};
}

}  // namespace phalanx::parallel
