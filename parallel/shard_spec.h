// How tensor parallelism cuts a dimension: which rows or columns tp_rank owns. Pure arithmetic,
// shared by the engine builder (which checks) and the loader (which slices).
#pragma once

#include <cstdint>

#include "runtime/base/result.h"

namespace phalanx::parallel {

/// How a weight is cut over a tensor-parallel group.
///   kReplicated  every rank holds all of it.
///   kColumn      outputs (rows of W) are cut; every rank sees the whole input.
///   kRow         inputs (columns of W) are cut in lanes; outputs are partial sums to all-reduce.
///   kKvColumn    like kColumn over KV heads, but when tp_size > num_kv_heads each head is held by
///                tp_size / num_kv_heads neighbouring ranks.
enum class ShardAxis : uint8_t { kReplicated, kColumn, kRow, kKvColumn };

const char* shard_axis_name(ShardAxis axis);

/// A half-open range of rows or columns.
struct Slice {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Slice&) const = default;
};

/// The part of `extent` units that tp_rank owns, in units: extent must be a multiple of tp_size
/// (kColumn, kRow); for kKvColumn, tp_size divides extent or extent divides tp_size. A vocabulary
/// is cut with `padded_slice` instead. Errors: InternalError when the rule is broken; callers
/// check with divides() first.
Slice shard_slice(ShardAxis axis, int64_t extent_units, int tp_size, int tp_rank);

/// Whether shard_slice accepts this.
bool divides(ShardAxis axis, int64_t extent_units, int tp_size);

/// tp_rank's part of `extent` when it is cut in tp_size parts of ceil(extent / tp_size); the last
/// parts may be shorter or empty. For vocabularies, whose size need not divide.
Slice padded_slice(int64_t extent, int tp_size, int tp_rank);

}  // namespace phalanx::parallel
