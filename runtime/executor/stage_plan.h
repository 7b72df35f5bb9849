// What one rank holds and runs, computed from the manifest alone: its ops, where every value lies
// in the arena, the matrices it packs, and the bytes all of it takes. Used by graph_executor, which
// allocates exactly this, and by memory_ledger, which prints it.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/operators.h"
#include "parallel/rank_topology.h"
#include "runtime/model/engine.pb.h"

namespace phalanx {

/// Sizes that bound a step.
struct StepLimits {
  int64_t max_rows = 0;       ///< tokens of a step
  int64_t max_sequences = 0;  ///< sequences of a step, hence rows that sample
  int64_t max_positions = 0;  ///< context length: sizes the rope tables and block tables
};

/// Where a value's rows lie: row r is at arena + offset_bytes + (r * stride + column) * 4.
struct Placement {
  int64_t offset_bytes = 0;
  int64_t stride = 0;     ///< floats from row to row
  int64_t column = 0;     ///< a slice of a fused linear's rows
  int64_t cols = 0;       ///< this rank's columns
  bool selected = false;  ///< rows are the sampled ones, not the step's
  bool is_part = false;   ///< not in the arena: this rank's part of a sum, where peers can read it
  bool is_converted = false;  ///< not in the arena: made in the form its reader, a linear, takes
};

/// An ADD or ADD_RMS_NORM that took the ALL_REDUCE before it in: it adds the sums of all ranks'
/// parts. Each rank may do so for rows of its own, if what it makes of them reaches all others.
struct FusedReduce {
  /// Who reads an output.
  enum class Readers {
    kNone,       ///< nobody, or only the next FusedReduce, which needs the same rows
    kLinears,    ///< linears that take the rows in one form: the converted rows are shared
    kSomeOther,  ///< the rows themselves are shared
  };
  Readers residual = Readers::kNone;  ///< of output 0
  Readers norm = Readers::kNone;      ///< of output 1, of an ADD_RMS_NORM
  /// For kLinears: the form.
  kernels::ActivationForm form = kernels::ActivationForm::kF32;
  int64_t group_size = 0;
};

/// A LINEAR of gates and factors that took the SILU_MUL after it in, and makes its rows in the form
/// of the linear that alone reads them.
struct GatedLinear {
  kernels::ActivationForm form = kernels::ActivationForm::kF32;
  int64_t group_size = 0;
};

/// Steps whose part of a sum is no longer than this may be summed by every rank for itself.
inline constexpr int64_t kMaxUnsharedBytes = int64_t{256} << 10;

/// A slice of a stored matrix, by global rows and columns.
struct MatrixSlice {
  std::string weight;
  std::string bias;  ///< empty: none
  int64_t row_begin = 0, row_end = 0;
  int64_t col_begin = 0, col_end = 0;
};

/// One linear of this rank: slices stacked along the outputs.
struct LinearPlan {
  std::vector<MatrixSlice> slices;
  kernels::WeightFormat format = kernels::WeightFormat::kF32;
  int64_t num_rows = 0;
  int64_t num_cols = 0;
  int64_t group_size = 0;
  int64_t num_lanes = 1;
  bool has_bias = false;
  bool has_zeros = false;
  int64_t packed_bytes = 0;
};

/// Thread: any (a value). Errors of make_stage_plan: InternalError when the graph breaks what
/// model::verify_graph promised; check_topology must have passed.
struct StagePlan {
  std::vector<engine::Op> ops;  ///< this stage's, with collectives when tp_size > 1
  std::unordered_map<std::string, Placement> placements;
  std::unordered_map<std::string, LinearPlan> linears;   ///< by op name
  std::unordered_map<std::string, FusedReduce> reduces;  ///< by op name
  std::unordered_map<std::string, GatedLinear> gated;    ///< by op name
  /// Every rank may sum rows of its own, in all of `reduces`.
  bool can_share_rows = false;
  /// They do so by multiples of this, the same in all of them: converted rows begin at 64 bytes.
  int64_t row_granule = 1;
  std::string input;   ///< received from the stage before; empty on the first
  std::string output;  ///< sent to the next stage, or the logits on the last
  int64_t first_layer = 0, last_layer = 0;
  int tp_size = 1;

  int64_t num_query_heads = 0;            ///< of this rank
  int64_t num_kv_heads = 0;               ///< of this rank
  std::vector<int32_t> kv_head_of_query;  ///< local indices

  int64_t table_bytes = 0;       ///< the embedding table, as stored
  int64_t weight_bytes = 0;      ///< packed matrices and vectors; and the table, but for a CPU's,
                                 ///< which reads it where it is mapped
  int64_t arena_bytes = 0;       ///< activations
  int64_t conversion_bytes = 0;  ///< the input of the current linear, in its form
  int64_t gated_bytes = 0;       ///< the rows of a gated linear, in its reader's form
  /// This rank's parts of sums: of a step whose ranks share its rows, then two turns of short steps
  /// (or of any, where rows cannot be shared).
  int64_t part_cols = 0;  ///< the most columns of one
  int64_t long_part_bytes = 0;
  int64_t short_part_bytes = 0;
  int64_t shared_conversion_bytes = 0;  ///< of the whole group: rows that the ranks converted
  int64_t logits_bytes = 0;             ///< gathered logits, on the sampler rank when tp_size > 1
  int64_t rope_bytes = 0;
  int64_t gated_scratch_bytes = 0;  ///< on devices: products of gated linears that wait for others

  int64_t part_bytes() const { return long_part_bytes + 2 * short_part_bytes; }
  /// Of this rank, with its share of what belongs to the group.
  int64_t activation_bytes() const {
    return arena_bytes + conversion_bytes + gated_bytes + part_bytes() +
           shared_conversion_bytes / tp_size + logits_bytes + rope_bytes + gated_scratch_bytes;
  }
};

StagePlan make_stage_plan(const engine::EngineManifest& manifest,
                          const parallel::RankTopology& topology, const StepLimits& limits,
                          kernels::Backend backend = kernels::Backend::kCpu);

/// What a backend's reserve() is told. Refers to the plan.
kernels::StepBounds step_bounds(const StagePlan& plan, const StepLimits& limits, int64_t head_dim,
                                kernels::KvFormat kv_format);

kernels::WeightFormat kernel_format(engine::WeightFormat format);

}  // namespace phalanx
