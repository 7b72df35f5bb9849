// The inside of a KV block on the CPU: where the keys, values and scales of one head's 32 tokens
// lie. Called by attention.cpp; the tier kernels get the offsets from it.
#pragma once

#include <cstdint>

#include "kernels/operators.h"

namespace phalanx::kernels::cpu {

/// Keys lie so that a vector holds 16 tokens of one dimension (or pair, or quad of dimensions),
/// values so that it holds 16 dimensions of one token (pair, quad). D is head_dim, P
/// padded_head_dim:
///   f32   keys [D][32]        values [P/16][32][16]
///   bf16  keys [D/2][32][2]   values [P/16][16][16][2]
///   int8  keys [D/4][32][4]   values [P/16][8][16][4], key codes plus 128 as unsigned bytes, then
///         f32 key scales [32] and value scales [32].
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

/// Elements that lie together: dimensions of a key, tokens of a value.
constexpr int64_t kv_pack(KvFormat format) {
  return format == KvFormat::kF32 ? 1 : format == KvFormat::kBf16 ? 2 : 4;
}

/// Where element (t, d) of the keys or values lies, in elements from their start.
constexpr int64_t key_index(KvFormat format, int64_t t, int64_t d) {
  const int64_t pack = kv_pack(format);
  return (d / pack * kBlockTokens + t) * pack + d % pack;
}
constexpr int64_t value_index(KvFormat format, int64_t t, int64_t d) {
  const int64_t pack = kv_pack(format);
  return d / 16 * 16 * kBlockTokens + (t / pack * 16 + d % 16) * pack + t % pack;
}

}  // namespace phalanx::kernels::cpu
