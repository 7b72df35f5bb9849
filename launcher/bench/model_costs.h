// What a token costs an engine: bytes and operations, for the limits beside its measured rates.
// Used by llm-bench model.
#pragma once

#include <cstdint>

#include "kernels/operators.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::bench {

/// Of the whole model, all ranks together. A multiply-add counts as two operations.
struct ModelCosts {
  kernels::WeightFormat weights = kernels::WeightFormat::kF32;  ///< of most of its parameters
  double weight_bytes = 0;         ///< packed matrices: what a step of any size reads at least once
  double layer_ops_per_token = 0;  ///< linears but the head
  double head_ops_per_token = 0;
  double attention_ops_per_pair = 0;  ///< of one query token and one key token: q.k and p.v
  double kv_bytes_per_token = 0;      ///< read by each later token

  /// Of a prompt of so many tokens, each of which sees those before it and itself, as if done at
  /// the linears' rate.
  double attention_ops(int64_t tokens) const {
    const auto n = static_cast<double>(tokens);
    return attention_ops_per_pair * n * (n + 1) / 2;
  }
};

ModelCosts model_costs(const engine::EngineManifest& manifest, kernels::KvFormat kv_format);

}  // namespace phalanx::bench
