// Carves one allocation into layers.
#include "runtime/executor/kv_cache.h"

#include "runtime/base/check.h"

namespace phalanx {

KvCache::KvCache(const KvCacheShape& shape, kernels::Operators& operators) {
  PHALANX_CHECK_GT(shape.num_blocks, 0, "KV blocks");
  memory_ = operators.allocate(shape.bytes());
  const int64_t layer_bytes =
      shape.num_blocks * shape.num_kv_heads * kernels::kv_block_bytes(shape.format, shape.head_dim);
  for (int64_t layer = 0; layer < shape.num_layers; ++layer) {
    layers_.push_back({shape.format, memory_.get() + layer * layer_bytes, shape.num_blocks,
                       shape.num_kv_heads, shape.head_dim});
  }
}

}  // namespace phalanx
