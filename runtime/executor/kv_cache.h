// One rank's share of the global KV-block pool: its KV heads of its layers. Owned by
// graph_executor.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/operators.h"

namespace phalanx {

struct KvCacheShape {
  kernels::KvFormat format = kernels::KvFormat::kF32;
  int64_t num_layers = 0;    ///< of this rank's stage
  int64_t num_kv_heads = 0;  ///< of this rank
  int64_t head_dim = 0;
  int64_t num_blocks = 0;  ///< the global pool: the same number on every rank

  /// Bytes one block takes on this rank, all its layers and heads.
  int64_t bytes_per_block() const {
    return num_layers * num_kv_heads * kernels::kv_block_bytes(format, head_dim);
  }
  int64_t bytes() const { return num_blocks * bytes_per_block(); }
};

/// Memory is allocated and zeroed at construction. Block ids come from the leader; executor thread.
class KvCache {
 public:
  KvCache(const KvCacheShape& shape, kernels::Operators& operators);

  const kernels::KvLayerView& layer(int64_t local_layer) const { return layers_[local_layer]; }

 private:
  std::shared_ptr<std::byte> memory_;
  std::vector<kernels::KvLayerView> layers_;
};

}  // namespace phalanx
