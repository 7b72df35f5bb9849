// The inside of a KV block on the CPU: where the keys, values and scales of one head's 32 tokens
// lie. Called by attention.cpp; the tier kernels get the offsets from it.
#pragma once

#include <cstdint>

#include "kernels/operators.h"

namespace phalanx::kernels::cpu {

/// Keys lie so that a vector holds 16 tokens of one dimension (or pair of dimensions), values so
/// that it holds 16 dimensions of one token (or pair of tokens). D is head_dim, P padded_head_dim:
///   f32         keys [D][32]         values [P/16][32][16]
///   bf16, int8  keys [D/2][32][2]    values [P/16][16][16][2]
///   int8 then has f32 key scales [32] and value scales [32].
/// Dimensions D..P-1 of values are never written and never read into a result.
struct KvBlockLayout {
  int64_t head_dim = 0;
  int64_t padded_head_dim = 0;      ///< P: head_dim rounded up to 16
  int64_t values_offset = 0;        ///< bytes from the block's start
  int64_t key_scales_offset = 0;    ///< int8 only
  int64_t value_scales_offset = 0;  ///< int8 only
  int64_t bytes = 0;                ///< of the whole block; a multiple of 64
};

/// head_dim: a multiple of 8 from 8 to kMaxHeadDim. Errors: InternalError for others.
KvBlockLayout kv_block_layout(KvFormat format, int64_t head_dim);

inline constexpr int64_t kMaxHeadDim = 256;

/// Where element (t, d) of the keys or values lies, in elements from their start.
constexpr int64_t key_index(KvFormat format, int64_t t, int64_t d) {
  if (format == KvFormat::kF32) return d * kBlockTokens + t;
  return (d / 2 * kBlockTokens + t) * 2 + d % 2;
}
constexpr int64_t value_index(KvFormat format, int64_t t, int64_t d) {
  if (format == KvFormat::kF32) return (d / 16 * kBlockTokens + t) * 16 + d % 16;
  return d / 16 * 16 * kBlockTokens + t / 2 * 32 + d % 16 * 2 + t % 2;
}

}  // namespace phalanx::kernels::cpu
