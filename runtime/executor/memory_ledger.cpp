// Sums the stage plans; the executor allocates from the same plans, so the two cannot disagree.
#include "runtime/executor/memory_ledger.h"

#include <cstdio>

#include "runtime/executor/kv_cache.h"

namespace phalanx {

std::vector<RankLedger> make_memory_ledger(const engine::EngineManifest& manifest, int tp_size,
                                           int pp_size, const StepLimits& limits,
                                           kernels::KvFormat kv_format, int64_t num_kv_blocks,
                                           kernels::Backend backend) {
  std::vector<RankLedger> ledger;
  for (int rank = 0; rank < tp_size * pp_size; ++rank) {
    const parallel::RankTopology topology{tp_size * pp_size, rank, tp_size, pp_size};
    const StagePlan plan = make_stage_plan(manifest, topology, limits, backend);
    const KvCacheShape kv{kv_format, plan.last_layer - plan.first_layer, plan.num_kv_heads,
                          manifest.model().head_dim(), num_kv_blocks};
    RankLedger entry;
    entry.rank = rank;
    entry.pp_rank = topology.pp_rank();
    entry.tp_rank = topology.tp_rank();
    entry.first_layer = plan.first_layer;
    entry.last_layer = plan.last_layer;
    entry.num_query_heads = plan.num_query_heads;
    entry.num_kv_heads = plan.num_kv_heads;
    entry.weight_bytes = plan.weight_bytes;
    entry.kv_bytes_per_block = kv.bytes_per_block();
    entry.kv_bytes = kv.bytes();
    entry.activation_bytes = plan.activation_bytes();
    if (backend == kernels::Backend::kCpu) entry.mapped_bytes = plan.table_bytes;
    ledger.push_back(entry);
  }
  return ledger;
}

std::string format_bytes(int64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1000.0 && unit < 4) {
    value /= 1024.0;
    ++unit;
  }
  char text[32];
  const int decimals = unit == 0 || value >= 100.0 ? 0 : (value >= 10.0 ? 1 : 2);
  std::snprintf(text, sizeof(text), "%.*f %s", decimals, value, units[unit]);
  return text;
}

std::string format_memory_ledger(const std::vector<RankLedger>& ledger) {
  std::string table;
  char line[256];
  std::snprintf(line, sizeof(line), "%5s %3s %3s %9s %6s %3s %12s %12s %12s %12s %14s\n", "rank",
                "pp", "tp", "layers", "heads", "kv", "weights", "kv cache", "activations", "total",
                "mapped, shared");
  table += line;
  RankLedger sum;
  for (const RankLedger& entry : ledger) {
    char layers[32];
    std::snprintf(layers, sizeof(layers), "%lld-%lld", static_cast<long long>(entry.first_layer),
                  static_cast<long long>(entry.last_layer - 1));
    std::snprintf(
        line, sizeof(line), "%5d %3d %3d %9s %6lld %3lld %12s %12s %12s %12s %14s\n", entry.rank,
        entry.pp_rank, entry.tp_rank, layers, static_cast<long long>(entry.num_query_heads),
        static_cast<long long>(entry.num_kv_heads), format_bytes(entry.weight_bytes).c_str(),
        format_bytes(entry.kv_bytes).c_str(), format_bytes(entry.activation_bytes).c_str(),
        format_bytes(entry.total_bytes()).c_str(),
        entry.mapped_bytes > 0 ? format_bytes(entry.mapped_bytes).c_str() : "-");
    table += line;
    sum.weight_bytes += entry.weight_bytes;
    sum.kv_bytes += entry.kv_bytes;
    sum.activation_bytes += entry.activation_bytes;
  }
  std::snprintf(line, sizeof(line), "%5s %3s %3s %9s %6s %3s %12s %12s %12s %12s\n", "all", "", "",
                "", "", "", format_bytes(sum.weight_bytes).c_str(),
                format_bytes(sum.kv_bytes).c_str(), format_bytes(sum.activation_bytes).c_str(),
                format_bytes(sum.total_bytes()).c_str());
  table += line;
  return table;
}

}  // namespace phalanx
