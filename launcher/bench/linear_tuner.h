// Finds how a product is best cut on this machine: an engine's distinct products, what can be
// tried, and the trial by turns. Used by llm-bench tune.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_operators.h"
#include "kernels/cpu/linear_tuning.h"
#include "launcher/bench/kernel_case.h"
#include "runtime/executor/stage_plan.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::bench {

/// A linear of an engine, as rank 0 of tp_size multiplies by it.
struct TunedProduct {
  MatrixShape shape;            ///< named as its first op; num_in_model: how many ops are like it
  kernels::cpu::LinearKey key;  ///< its row_bucket is 0
  GatedLinear gated;            ///< what becomes of a gated product
  int64_t most_rows = 0;        ///< no step asks for more; 0: unlimited
};

/// Distinct by key, in the order of the graph, fused as stage_plan does.
std::vector<TunedProduct> products_of(const engine::EngineManifest& manifest, int tp_size);

/// Decisions of a tuning, in the order in which they are tried.
enum class TuningStep { kSplit, kPiece, kTileRows, kAhead };
inline constexpr TuningStep kTuningSteps[] = {TuningStep::kSplit, TuningStep::kPiece,
                                              TuningStep::kTileRows, TuningStep::kAhead};

/// What bounds the decisions on one product.
struct TuningBounds {
  int64_t num_rows = 1;
  int64_t num_panels = 1;  ///< that threads can part
  int num_threads = 1;
  int64_t tier_rows = 1;            ///< most_tile_rows of the tier
  bool may_use_one_thread = false;  ///< it is quick enough that starting the others may not pay
};

/// `from` with another answer to one decision, for each that is worth a trial.
std::vector<kernels::cpu::LinearTuning> variations(const kernels::cpu::LinearTuning& from,
                                                   TuningStep step, const TuningBounds& bounds);

struct TunerOptions {
  int64_t repetitions = 7;  ///< rounds in which candidates are compared; of the last trial: twice
  double sample_seconds = 0.004;
};

/// The outcome of a last trial by turns: a sample of each for each round, in seconds a product.
struct TunedChoice {
  kernels::cpu::LinearTuning tuning;  ///< the default, unless another is clearly better
  std::vector<double> default_seconds;
  std::vector<double> chosen_seconds;
};

/// Whether three quarters of the rounds find `candidate` at least 2 % faster: a gain within the
/// spread counts for nothing. Seconds, a sample of each for each round.
bool is_clearly_faster(const std::vector<double>& before, const std::vector<double>& candidate);

/// Tries candidates decision by decision, keeping the best, then the best against the default once
/// more with fresh samples: it is chosen only if it is clearly faster. bounds.may_use_one_thread is
/// set here. The operators are left without tunings. Throws Stopped on a signal.
TunedChoice tune(kernels::cpu::CpuOperators& operators, KernelCase& product,
                 const kernels::cpu::LinearKey& key, TuningBounds bounds,
                 const TunerOptions& options);

/// "default", or what differs from it: "split=grid row_parts=2 tile_rows=4".
std::string describe_tuning(const kernels::cpu::LinearTuning& tuning);

}  // namespace phalanx::bench
