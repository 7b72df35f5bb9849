// Shard arithmetic per rank, from the same rules that the loader uses.
#include "launcher/llm_build_shards.h"

#include <cstdio>
#include <set>

#include "parallel/rank_topology.h"
#include "runtime/executor/memory_ledger.h"
#include "runtime/executor/stage_plan.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/manifest.h"

namespace phalanx::launcher {

namespace {

std::string range_text(const model::Range& range) {
  if (range.size() == 0) return "-";
  return std::to_string(range.begin) + "-" + std::to_string(range.end - 1);
}

/// Stored bytes of the part of `weight` that tp_rank reads: rows or columns, with their scales.
int64_t slice_bytes(const engine::Weight& weight, int tp_size, int tp_rank) {
  const bool by_columns = weight.axis() == engine::ROW;
  const int64_t extent = by_columns ? weight.cols() : weight.rows();
  const int64_t unit = by_columns ? 1 : weight.shard_unit();
  const model::Range range = model::shard_range(weight.axis(), extent, unit, tp_size, tp_rank);
  return model::stored_bytes(weight) / extent * range.size();
}

/// Weights that the ops of a stage read.
std::set<std::string> stage_weights(const StagePlan& plan) {
  std::set<std::string> names;
  for (const engine::Op& op : plan.ops) {
    names.insert(op.weights().begin(), op.weights().end());
    names.insert(op.biases().begin(), op.biases().end());
  }
  return names;
}

/// What llm-worker assumes when its config says nothing.
StepLimits default_limits(const engine::ModelConfig& model) {
  return {.max_rows = 1024, .max_sequences = 64, .max_positions = model.max_position_embeddings()};
}

void print_ledger(const engine::EngineManifest& manifest, int tp_size, int pp_size,
                  std::ostream& out) {
  const StepLimits limits = default_limits(manifest.model());
  const int64_t blocks = (limits.max_positions + kernels::kBlockTokens - 1) / kernels::kBlockTokens;
  const auto ledger =
      make_memory_ledger(manifest, tp_size, pp_size, limits, kernels::KvFormat::kF32, blocks);
  out << "\nmemory, with " << limits.max_rows << " rows a step, " << limits.max_sequences
      << " sequences and an f32 KV cache of one context (" << limits.max_positions
      << " tokens); `llm-worker --plan` counts for a config\n"
      << format_memory_ledger(ledger);
}

}  // namespace

void print_shards(const engine::EngineManifest& manifest, int tp_size, int pp_size,
                  std::ostream& out) {
  const engine::ModelConfig& model = manifest.model();
  out << "shards at tp_size " << tp_size << ", pp_size " << pp_size
      << "  (bytes: of the engine's files; a tied table is read whole by the first stage)\n"
      << "  rank  stage  tp  layers    q heads   kv heads  vocab rows        weights\n";
  for (int rank = 0; rank < tp_size * pp_size; ++rank) {
    const parallel::RankTopology topology{tp_size * pp_size, rank, tp_size, pp_size};
    const auto [first, last] = topology.layer_range(static_cast<int>(model.num_hidden_layers()));
    const int tp_rank = topology.tp_rank();
    const model::Range q_heads =
        model::shard_range(engine::COLUMN, model.num_attention_heads(), 1, tp_size, tp_rank);
    const model::Range kv_heads =
        model::shard_range(engine::KV_COLUMN, model.num_key_value_heads(), 1, tp_size, tp_rank);
    model::Range vocab;
    if (topology.is_last_stage())
      vocab = model::shard_range(engine::VOCAB, model.vocab_size(), 1, tp_size, tp_rank);
    const std::set<std::string> names =
        stage_weights(make_stage_plan(manifest, topology, default_limits(model)));
    int64_t bytes = 0;
    for (const engine::Weight& weight : manifest.weights()) {
      if (names.count(weight.name()) == 0) continue;
      const bool whole_table = weight.axis() == engine::VOCAB && model.tie_word_embeddings() &&
                               topology.is_first_stage();
      bytes += slice_bytes(weight, whole_table ? 1 : tp_size, whole_table ? 0 : tp_rank);
    }
    char text[200];
    std::snprintf(text, sizeof(text), "  %4d  %5d  %2d  %-8s  %-8s  %-8s  %-16s  %s\n", rank,
                  topology.pp_rank(), tp_rank, range_text({first, last}).c_str(),
                  range_text(q_heads).c_str(), range_text(kv_heads).c_str(),
                  range_text(vocab).c_str(), format_bytes(bytes).c_str());
    out << text;
  }
  print_ledger(manifest, tp_size, pp_size, out);
}

}  // namespace phalanx::launcher
