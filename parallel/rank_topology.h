// Where a rank stands: the map between global ranks and (pp_rank, tp_rank), and who shares a host.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace phalanx::parallel {

/// rank = pp_rank * tp_size + tp_rank, so the ranks of a tensor-parallel group are neighbours (and
/// usually share a host). Rank 0 is the leader. The last stage's tp_rank 0 samples.
struct RankTopology {
  int world_size = 1;
  int rank = 0;
  int tp_size = 1;
  int pp_size = 1;

  int tp_rank() const { return rank % tp_size; }
  int pp_rank() const { return rank / tp_size; }
  bool is_leader() const { return rank == 0; }
  bool is_first_stage() const { return pp_rank() == 0; }
  bool is_last_stage() const { return pp_rank() == pp_size - 1; }
  /// The rank that gathers logits and samples.
  int sampler_rank() const { return (pp_size - 1) * tp_size; }
  bool is_sampler() const { return rank == sampler_rank(); }
  int rank_of(int pp, int tp) const { return pp * tp_size + tp; }

  /// Layers [first, last) of stage pp_rank when num_layers are cut in pp_size runs whose lengths
  /// differ by at most one, longer runs first in the middle stages' favour: the first and last
  /// stages also hold the embedding and the head.
  std::pair<int, int> layer_range(int num_layers) const;
};

/// Errors: kInvalidArgument when tp_size * pp_size is not world_size (the message says both and
/// which -np would fit), or a size is below 1.
Result<RankTopology> make_rank_topology(int world_size, int rank, int tp_size, int pp_size);

}  // namespace phalanx::parallel
