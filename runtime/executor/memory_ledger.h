// What each rank will allocate, before it does: `llm-worker --plan` and `llm-build inspect` print
// it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/operators.h"
#include "runtime/executor/stage_plan.h"
#include "runtime/model/engine.pb.h"

namespace phalanx {

/// One rank's memory in bytes.
struct RankLedger {
  int rank = 0;
  int pp_rank = 0;
  int tp_rank = 0;
  int64_t first_layer = 0, last_layer = 0;
  int64_t num_query_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t weight_bytes = 0;  ///< packed; owned by the rank
  int64_t mapped_bytes = 0;  ///< on CPUs: embedding table, mapped from the engine and shared by a
                             ///< host
  int64_t kv_bytes_per_block = 0;
  int64_t kv_bytes = 0;
  int64_t activation_bytes = 0;  ///< arena, conversion, rope tables, gathered logits; on devices
                                 ///< what the backend takes for itself, too

  int64_t total_bytes() const { return weight_bytes + kv_bytes + activation_bytes; }
};

/// Every rank's ledger at tp_size x pp_size. Requires model::check_topology to pass.
std::vector<RankLedger> make_memory_ledger(const engine::EngineManifest& manifest, int tp_size,
                                           int pp_size, const StepLimits& limits,
                                           kernels::KvFormat kv_format, int64_t num_kv_blocks,
                                           kernels::Backend backend = kernels::Backend::kCpu);

/// A table with a row for each rank and a sum.
std::string format_memory_ledger(const std::vector<RankLedger>& ledger);

/// "12.3 MiB": three significant digits.
std::string format_bytes(int64_t bytes);

}  // namespace phalanx
