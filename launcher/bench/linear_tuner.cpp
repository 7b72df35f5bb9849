// Candidates and their trial.
#include "launcher/bench/linear_tuner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <utility>

#include "kernels/cpu/panel_layout.h"
#include "launcher/bench/report.h"
#include "launcher/stop_signal.h"
#include "parallel/rank_topology.h"

namespace phalanx::bench {
namespace {

using kernels::cpu::LinearKey;
using kernels::cpu::LinearSplit;
using kernels::cpu::LinearTuning;
using kernels::cpu::LinearTunings;
using Clock = std::chrono::steady_clock;

/// What a candidate must gain to go on to the next decision, and to be kept in the end.
constexpr double kWorthPursuing = 1.01;
constexpr double kWorthKeeping = 1.02;

/// Starting threads is a microsecond or so.
constexpr double kOneThreadSeconds = 50e-6;

/// No step asks for the logits of more rows by default (scheduling.max_sequences).
constexpr int64_t kMostHeadRows = 64;

/// Seconds of a product under each of some tunings, by turns.
class Trial {
 public:
  Trial(kernels::cpu::CpuOperators& operators, KernelCase& product, const LinearKey& key,
        const TunerOptions& options)
      : operators_(operators), product_(product), key_(key), options_(options) {
    product_.run();
    const double once = std::max(run_seconds(1), 1e-8);
    num_calls_ = std::max<int64_t>(1, std::llround(options.sample_seconds / once));
    seconds_of_one_ = run_seconds(num_calls_);
  }
  ~Trial() { operators_.set_tunings(nullptr); }
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  double seconds_of_one() const { return seconds_of_one_; }

  /// [tuning][round]. Every other round goes backwards, so that none always follows the same one.
  std::vector<std::vector<double>> run(const std::vector<LinearTuning>& tunings,
                                       int64_t num_rounds) {
    std::vector<std::vector<double>> seconds(tunings.size());
    for (int64_t round = 0; round < num_rounds; ++round) {
      for (size_t turn = 0; turn < tunings.size(); ++turn) {
        check_stop();
        const size_t i = round % 2 == 0 ? turn : tunings.size() - 1 - turn;
        operators_.set_tunings(std::make_shared<const LinearTunings>(
            std::vector<LinearTunings::Entry>{{key_, tunings[i]}}));
        product_.run();
        seconds[i].push_back(run_seconds(num_calls_));
      }
    }
    return seconds;
  }

 private:
  double run_seconds(int64_t num_calls) {
    const auto begin = Clock::now();
    for (int64_t i = 0; i < num_calls; ++i) product_.run();
    return std::chrono::duration<double>(Clock::now() - begin).count() /
           static_cast<double>(num_calls);
  }

  kernels::cpu::CpuOperators& operators_;
  KernelCase& product_;
  const LinearKey key_;
  const TunerOptions& options_;
  int64_t num_calls_ = 1;
  double seconds_of_one_ = 0;
};

/// How much faster `b` is, round by round.
std::vector<double> gains(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (size_t i = 0; i < a.size(); ++i) ratios.push_back(a[i] / b[i]);
  return ratios;
}

int64_t num_tiles(int64_t rows, int64_t tile_rows) { return (rows + tile_rows - 1) / tile_rows; }

std::vector<LinearTuning> splits(const LinearTuning& from, const TuningBounds& bounds) {
  std::vector<LinearTuning> all;
  if (bounds.num_threads == 1) return all;
  const auto add = [&](LinearSplit split, int64_t row_parts) {
    LinearTuning tuning = from;
    tuning.split = split;
    tuning.row_parts = row_parts;
    all.push_back(tuning);
  };
  if (bounds.may_use_one_thread) add(LinearSplit::kOneThread, 0);
  add(LinearSplit::kSharedPanels, 0);
  const int64_t most_parts = std::min<int64_t>(bounds.num_threads, bounds.num_rows);
  for (int64_t parts = 1; parts < most_parts; parts *= 2) add(LinearSplit::kGrid, parts);
  add(LinearSplit::kGrid, most_parts);
  return all;
}

}  // namespace

std::vector<TunedProduct> products_of(const engine::EngineManifest& manifest, int tp_size) {
  const auto topology = parallel::make_rank_topology(tp_size, 0, tp_size, 1);
  PHALANX_CHECK(topology.ok(), "a topology of one stage");
  StepLimits limits;  // placements depend on them, products do not
  limits.max_rows = limits.max_positions = 1;
  limits.max_sequences = 1;
  const StagePlan plan = make_stage_plan(manifest, *topology, limits);
  std::vector<TunedProduct> products;
  std::map<LinearKey, size_t> index_of;
  for (const engine::Op& op : plan.ops) {
    const auto linear = plan.linears.find(op.name());
    if (linear == plan.linears.end() || linear->second.num_rows == 0) continue;
    const LinearPlan& matrix = linear->second;
    const auto gated = plan.gated.find(op.name());
    TunedProduct product;
    product.key = {matrix.format,     matrix.num_rows,           matrix.num_cols,
                   matrix.group_size, gated != plan.gated.end(), 0};
    const auto [place, is_first] = index_of.emplace(product.key, products.size());
    if (!is_first) {
      ++products[place->second].shape.num_in_model;
      continue;
    }
    product.shape = {op.name(), matrix.num_rows, matrix.num_cols, matrix.num_lanes, 1};
    if (product.key.is_gated) product.gated = gated->second;
    if (plan.placements.at(op.outputs(0)).selected) product.most_rows = kMostHeadRows;
    products.push_back(std::move(product));
  }
  return products;
}

std::vector<LinearTuning> variations(const LinearTuning& from, TuningStep step,
                                     const TuningBounds& bounds) {
  std::vector<LinearTuning> all;
  const auto add = [&](int64_t LinearTuning::*field, int64_t value) {
    LinearTuning tuning = from;
    tuning.*field = value;
    all.push_back(tuning);
  };
  switch (step) {
    case TuningStep::kSplit:
      return splits(from, bounds);
    case TuningStep::kPiece:
      if (bounds.num_threads == 1 || from.split == LinearSplit::kOneThread ||
          from.split == LinearSplit::kGrid)
        return all;
      for (int64_t piece = 1; piece * bounds.num_threads <= bounds.num_panels && piece <= 64;
           piece *= 2)
        add(&LinearTuning::piece_panels, piece);
      return all;
    case TuningStep::kTileRows:
      for (int64_t rows = bounds.tier_rows - 1; rows >= std::max<int64_t>(1, bounds.tier_rows / 2);
           --rows) {
        if (num_tiles(bounds.num_rows, rows) > num_tiles(bounds.num_rows, rows + 1))
          add(&LinearTuning::tile_rows, rows);
      }
      return all;
    case TuningStep::kAhead:
      if (bounds.num_rows > bounds.tier_rows) return all;
      for (const int64_t bytes : {2048, 4096, 8192, 16384, 32768})
        add(&LinearTuning::ahead_bytes, bytes);
      return all;
  }
  return all;
}

bool is_clearly_faster(const std::vector<double>& before, const std::vector<double>& candidate) {
  return quantile(gains(before, candidate), 0.25) >= kWorthKeeping;
}

TunedChoice tune(kernels::cpu::CpuOperators& operators, KernelCase& product, const LinearKey& key,
                 TuningBounds bounds, const TunerOptions& options) {
  Trial trial(operators, product, key, options);
  bounds.may_use_one_thread = trial.seconds_of_one() < kOneThreadSeconds;
  LinearTuning best;
  for (const TuningStep step : kTuningSteps) {
    std::vector<LinearTuning> candidates = variations(best, step, bounds);
    if (candidates.empty()) continue;
    candidates.insert(candidates.begin(), best);
    const auto seconds = trial.run(candidates, options.repetitions);
    double most = kWorthPursuing;
    for (size_t i = 1; i < candidates.size(); ++i) {
      const double gain = quantile(gains(seconds[0], seconds[i]), 0.5);
      if (gain <= most) continue;
      most = gain;
      best = candidates[i];
    }
  }
  const auto seconds = trial.run({LinearTuning{}, best}, 2 * options.repetitions);
  if (best.is_default() || !is_clearly_faster(seconds[0], seconds[1]))
    return {{}, seconds[0], seconds[0]};
  return {best, seconds[0], seconds[1]};
}

std::string describe_tuning(const LinearTuning& tuning) {
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : " ") + part; };
  switch (tuning.split) {
    case LinearSplit::kDefault:
      break;
    case LinearSplit::kOneThread:
      add("split=one_thread");
      break;
    case LinearSplit::kSharedPanels:
      add("split=shared_panels");
      break;
    case LinearSplit::kGrid:
      add("split=grid row_parts=" + std::to_string(tuning.row_parts));
      break;
  }
  if (tuning.piece_panels > 0) add("piece_panels=" + std::to_string(tuning.piece_panels));
  if (tuning.tile_rows > 0) add("tile_rows=" + std::to_string(tuning.tile_rows));
  if (tuning.ahead_bytes > 0) add("ahead_bytes=" + std::to_string(tuning.ahead_bytes));
  return text.empty() ? "default" : text;
}

}  // namespace phalanx::bench
