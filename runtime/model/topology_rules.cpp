// Which topologies an engine runs at, and what each rank owns.
#include "parallel/shard_spec.h"
#include "runtime/base/check.h"
#include "runtime/model/engine_file.h"

namespace phalanx::model {

namespace {

parallel::ShardAxis to_parallel(engine::ShardAxis axis) {
  switch (axis) {
    case engine::REPLICATED:
      return parallel::ShardAxis::kReplicated;
    case engine::COLUMN:
      return parallel::ShardAxis::kColumn;
    case engine::ROW:
      return parallel::ShardAxis::kRow;
    case engine::KV_COLUMN:
      return parallel::ShardAxis::kKvColumn;
    case engine::VOCAB:
    case engine::ShardAxis_INT_MIN_SENTINEL_DO_NOT_USE_:
    case engine::ShardAxis_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  PHALANX_CHECK(false, "no parallel::ShardAxis for axis " + std::to_string(axis));
  return parallel::ShardAxis::kReplicated;
}

bool kv_heads_fit(int64_t num_kv_heads, int64_t tp_size) {
  return num_kv_heads % tp_size == 0 || tp_size % num_kv_heads == 0;
}

std::string admissible_tp_sizes(const engine::EngineManifest& manifest) {
  std::string text;
  for (int64_t tp = 1; tp <= manifest.reduction_lanes(); tp *= 2) {
    if (!kv_heads_fit(manifest.model().num_key_value_heads(), tp)) continue;
    if (!text.empty()) text += ", ";
    text += std::to_string(tp);
  }
  return text;
}

}  // namespace

Range shard_range(engine::ShardAxis axis, int64_t extent, int64_t shard_unit, int tp_size,
                  int tp_rank) {
  if (axis == engine::VOCAB) {
    const parallel::Slice slice = parallel::padded_slice(extent, tp_size, tp_rank);
    return {slice.begin, slice.end};
  }
  PHALANX_CHECK(shard_unit > 0 && extent % shard_unit == 0, "extent is not whole shard units");
  const parallel::Slice slice =
      parallel::shard_slice(to_parallel(axis), extent / shard_unit, tp_size, tp_rank);
  return {slice.begin * shard_unit, slice.end * shard_unit};
}

Status check_topology(const engine::EngineManifest& manifest, int tp_size, int pp_size) {
  const engine::ModelConfig& model = manifest.model();
  const int64_t lanes = manifest.reduction_lanes();
  const std::string fits = "tp_size can be " + admissible_tp_sizes(manifest);
  if (tp_size < 1 || lanes % tp_size != 0)
    return failed_precondition(
        "tp_size " + std::to_string(tp_size) + " does not divide the engine's reduction_lanes " +
        std::to_string(lanes) + "; " + fits + " (lanes divide num_attention_heads " +
        std::to_string(model.num_attention_heads()) + " and every row-cut reduction)");
  if (!kv_heads_fit(model.num_key_value_heads(), tp_size))
    return failed_precondition("tp_size " + std::to_string(tp_size) + " and num_key_value_heads " +
                               std::to_string(model.num_key_value_heads()) +
                               ": one must divide the other; " + fits);
  if (pp_size < 1 || pp_size > model.num_hidden_layers())
    return failed_precondition("pp_size " + std::to_string(pp_size) + " must be between 1 and " +
                               std::to_string(model.num_hidden_layers()) +
                               ", the number of layers");
  return {};
}

}  // namespace phalanx::model
