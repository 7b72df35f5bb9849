// The map between global ranks and (pp_rank, tp_rank), and which layers a stage holds. Used by the
// launcher, the loader and every rank's worker.
#include "parallel/rank_topology.h"

#include <string>
#include <utility>

#include "runtime/base/check.h"

namespace phalanx::parallel {

std::pair<int, int> RankTopology::layer_range(int num_layers) const {
  PHALANX_CHECK_GE(num_layers, pp_size, "a stage would hold no layer");
  const int base = num_layers / pp_size;
  const int num_longer = num_layers % pp_size;
  const int num_middle = pp_size > 2 ? pp_size - 2 : 0;
  // Who gets one layer more, in this order: the middle stages, then the first (an embedding look-up
  // is cheap), and the last, which also computes the head, never (num_longer < pp_size).
  const auto is_longer = [&](int stage) {
    const bool is_middle = stage > 0 && stage < pp_size - 1;
    return is_middle ? stage - 1 < num_longer : stage == 0 && num_longer > num_middle;
  };
  int first = 0;
  for (int stage = 0; stage < pp_rank(); ++stage) first += base + (is_longer(stage) ? 1 : 0);
  return {first, first + base + (is_longer(pp_rank()) ? 1 : 0)};
}

Result<RankTopology> make_rank_topology(int world_size, int rank, int tp_size, int pp_size) {
  if (tp_size < 1)
    return invalid_argument("tp_size is " + std::to_string(tp_size) + "; it must be at least 1");
  if (pp_size < 1)
    return invalid_argument("pp_size is " + std::to_string(pp_size) + "; it must be at least 1");
  const int64_t needed = int64_t{tp_size} * pp_size;
  if (needed != world_size) {
    return invalid_argument("tp_size " + std::to_string(tp_size) + " x pp_size " +
                            std::to_string(pp_size) + " needs " + std::to_string(needed) +
                            " ranks, but the job has " + std::to_string(world_size) +
                            ": start it with -np " + std::to_string(needed) +
                            ", or set sizes whose product is " + std::to_string(world_size));
  }
  PHALANX_CHECK(rank >= 0 && rank < world_size, "rank outside the world");
  return RankTopology{world_size, rank, tp_size, pp_size};
}

}  // namespace phalanx::parallel
