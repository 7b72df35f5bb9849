// llm-bench tune: how each product of an engine is best cut on this machine, for each number of
// rows; kept in the file that llm-worker reads.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "kernels/cpu/linear.h"
#include "launcher/bench/commands.h"
#include "launcher/bench/isa_flag.h"
#include "launcher/bench/linear_tuner.h"
#include "launcher/bench/shape_engine.h"
#include "launcher/core_placement.h"
#include "launcher/host_resources.h"
#include "launcher/machine_topology.h"
#include "launcher/tuning_file.h"
#include "runtime/model/engine_file.h"

namespace phalanx::bench {
namespace {

using kernels::cpu::CpuOperators;
using kernels::cpu::LinearKey;
using kernels::cpu::LinearTunings;

/// Memory that calls in turn walk through, where a model does not stay in the caches.
constexpr int64_t kLeastUncachedBytes = int64_t{64} << 20;

std::vector<Flag> flags() {
  std::vector<Flag> all = {{"--engine", "DIR", "", "the engine to tune for, instead of a shape's"}};
  for (Flag& flag : shape_flags()) all.push_back(std::move(flag));
  const std::vector<Flag> own = {
      {"--rows", "N,...", "1,2,4,8,16,32,64,128,256,512",
       "numbers of rows to tune at, each for those up to it (3-4, 5-8, ... 257+)"},
      {"--threads", "N", "0", "of a rank, as cpu.num_threads; 0: the host's cores shared out"},
      {"--tp", "N", "1", "tp_size: the products of one of so many ranks"},
      isa_flag(),
      {"--repetitions", "N", "7", "rounds in which candidates are compared"},
      {"--sample-ms", "N", "4", "milliseconds that a sample takes"},
      {"--out", "FILE", "", "the file to add to, instead of the one llm-worker finds by itself"}};
  all.insert(all.end(), own.begin(), own.end());
  return all;
}

struct TuneRun {
  std::string engine;
  std::vector<int64_t> rows;
  int64_t tp_size = 1;
  TunerOptions tuner;
  kernels::CpuBackendOptions cpu;
  launcher::TuningMachine machine;
  std::string out;
};

/// Threads and their places as llm-worker chooses them for one of tp_size ranks.
void place(TuneRun& run, int num_threads) {
  const launcher::MachineTopology topology = launcher::read_topology();
  launcher::HostRanks host;
  host.allowed.assign(static_cast<size_t>(run.tp_size), launcher::list_of(launcher::affinity()));
  host.quota_cores = launcher::cpu_quota_cores();
  const launcher::HostPlacement placement = launcher::place_ranks(topology, host, num_threads);
  const std::vector<int>& cpus = placement.cpus.front();
  run.cpu.num_threads = static_cast<int>(cpus.size());
  run.cpu.spin = placement.fits;
  if (placement.pins) run.cpu.cpus = cpus;
  run.machine = launcher::tuning_machine(topology, run.cpu.isa_tier, cpus);
}

Result<TuneRun> read_run(const BenchOptions& options) {
  TuneRun run;
  PHALANX_ASSIGN_OR_RETURN(run.rows, options.integers("--rows", 1, 8192));
  std::map<int, int64_t> rows_of;
  for (const int64_t rows : run.rows) {
    const auto [same, is_first] = rows_of.emplace(kernels::cpu::row_bucket(rows), rows);
    if (!is_first)
      return invalid_argument("--rows has " + std::to_string(same->second) + " and " +
                              std::to_string(rows) + ", which are tuned together (" +
                              kernels::cpu::row_bucket_name(same->first) + ")");
  }
  PHALANX_ASSIGN_OR_RETURN(const int64_t threads, options.integer("--threads", 0, 1024));
  PHALANX_ASSIGN_OR_RETURN(run.tp_size, options.integer("--tp", 1, 1024));
  PHALANX_ASSIGN_OR_RETURN(run.cpu.isa_tier, read_isa_flag(options));
  PHALANX_ASSIGN_OR_RETURN(run.tuner.repetitions, options.integer("--repetitions", 1, 1000));
  PHALANX_ASSIGN_OR_RETURN(const int64_t sample_ms, options.integer("--sample-ms", 1, 10'000));
  run.tuner.sample_seconds = static_cast<double>(sample_ms) * 1e-3;
  place(run, static_cast<int>(threads));
  run.out =
      options.is_set("--out") ? options.text("--out") : launcher::default_tuning_path(run.machine);
  if (run.out.empty())
    return invalid_argument("--out is needed where neither XDG_CACHE_HOME nor HOME is set");
  if (options.is_set("--engine")) {
    run.engine = options.text("--engine");
  } else {
    PHALANX_ASSIGN_OR_RETURN(const ShapeEngineRequest request, read_shape_request(options));
    PHALANX_ASSIGN_OR_RETURN(run.engine, ensure_shape_engine(request));
  }
  return run;
}

/// What the file holds already, by key. A file that the user named and that is no tuning of this
/// machine is not ours to replace; where llm-worker looks by itself it is of no use to anybody.
Result<std::map<LinearKey, kernels::cpu::LinearTuning>> read_tuned(const TuneRun& run,
                                                                   bool is_named) {
  std::map<LinearKey, kernels::cpu::LinearTuning> tuned;
  const auto file = launcher::read_tuning(run.out);
  if (!file.ok()) {
    if (file.error().code == ErrorCode::kNotFound) return tuned;
    if (is_named) return invalid_argument("--out: " + file.error().message);
    std::fprintf(stderr, "replaced: %s\n", file.error().message.c_str());
    return tuned;
  }
  if (file->machine != run.machine) {
    const std::string text = run.out + " is of another machine: " + file->machine.describe() +
                             "; here: " + run.machine.describe();
    if (is_named) return invalid_argument("--out: " + text);
    std::fprintf(stderr, "replaced: %s\n", text.c_str());
    return tuned;
  }
  for (const auto& [key, tuning] : file->tunings.entries()) tuned.emplace(key, tuning);
  return tuned;
}

/// Bytes that calls of one product walk through: all its copies in the model, or, where the model
/// does not fit the caches, enough that none is met in them again.
int64_t footprint_of(const TunedProduct& product, const std::vector<TunedProduct>& products,
                     int64_t cached_bytes) {
  const auto bytes_of = [](const TunedProduct& p) {
    return p.shape.num_in_model *
           kernels::packed_matrix_bytes(p.key.format, p.shape.num_rows, p.shape.num_cols,
                                        p.key.group_size, /*has_bias=*/false, /*has_zeros=*/false,
                                        p.shape.num_lanes);
  };
  int64_t model_bytes = 0;
  for (const TunedProduct& each : products) model_bytes += bytes_of(each);
  if (model_bytes <= cached_bytes) return bytes_of(product);
  return std::min(model_bytes, std::max(kLeastUncachedBytes, 4 * cached_bytes));
}

std::vector<double> microseconds(std::vector<double> seconds) {
  for (double& value : seconds) value *= 1e6;
  return seconds;
}

void report_choice(const TunedProduct& product, int64_t rows, const TunedChoice& choice,
                   Report& report) {
  Measurement row;
  row.name = "tune";
  row.parameters = {{"product", product.shape.name},
                    {"weights", kernels::weight_format_name(product.key.format)},
                    {"size", std::to_string(product.shape.num_rows) + "x" +
                                 std::to_string(product.shape.num_cols)},
                    {"rows", std::to_string(rows)},
                    {"tuning", describe_tuning(choice.tuning)}};
  row.unit = "us";
  row.better = Better::kLower;
  row.samples = microseconds(choice.chosen_seconds);
  row.limit = Limit{"the default", microseconds(choice.default_seconds)};
  report.add(std::move(row));
}

Status run(const BenchOptions& options, Report& report) {
  PHALANX_ASSIGN_OR_RETURN(const TuneRun run, read_run(options));
  PHALANX_ASSIGN_OR_RETURN(auto tuned, read_tuned(run, options.is_set("--out")));
  PHALANX_ASSIGN_OR_RETURN(const auto engine, model::EngineFile::open(run.engine));
  const int tp_size = static_cast<int>(run.tp_size);
  PHALANX_RETURN_IF_ERROR(model::check_topology(engine->manifest(), tp_size, 1));
  const std::vector<TunedProduct> products = products_of(engine->manifest(), tp_size);
  CpuOperators operators(run.cpu);
  report.set_fact("operators", operators.description());
  report.set_fact("engine", run.engine);
  report.set_fact("tuning_file", run.out);

  const int64_t cached_bytes = std::max(run.machine.l3_bytes, run.machine.l2_bytes);
  size_t num_tried = 0;
  size_t num_tuned = 0;
  for (const TunedProduct& product : products) {
    auto weights = std::make_shared<LinearWeights>(operators, product.shape, product.key.format,
                                                   product.key.group_size,
                                                   footprint_of(product, products, cached_bytes));
    TuningBounds bounds;
    bounds.num_threads = run.cpu.num_threads;
    bounds.tier_rows = kernels::cpu::most_tile_rows(run.cpu.isa_tier);
    bounds.num_panels = (product.shape.num_rows + 63) / 64 / (product.key.is_gated ? 2 : 1);
    for (const int64_t rows : run.rows) {
      if (product.most_rows > 0 && rows > product.most_rows) continue;
      if (::isatty(STDERR_FILENO) != 0)
        std::fprintf(stderr, "\r%s, %lld rows ...\x1b[K\r", product.shape.name.c_str(),
                     static_cast<long long>(rows));
      RowIds ids;
      for (int64_t i = 0; i < rows; ++i) ids.push_back(i);
      const auto product_case = product.key.is_gated
                                    ? make_gated_linear_case(operators, weights, product.gated.form,
                                                             product.gated.group_size, ids)
                                    : make_linear_case(operators, weights, ids);
      LinearKey key = product.key;
      key.row_bucket = kernels::cpu::row_bucket(rows);
      bounds.num_rows = rows;
      const TunedChoice choice = tune(operators, *product_case, key, bounds, run.tuner);
      report_choice(product, rows, choice, report);
      tuned.erase(key);
      if (!choice.tuning.is_default()) tuned.emplace(key, choice.tuning);
      ++num_tried;
      if (!choice.tuning.is_default()) ++num_tuned;
    }
  }
  std::vector<LinearTunings::Entry> entries;
  for (const auto& [key, tuning] : tuned) entries.push_back({key, tuning});
  const size_t num_entries = entries.size();
  PHALANX_RETURN_IF_ERROR(
      launcher::write_tuning(run.out, {run.machine, LinearTunings(std::move(entries))}));
  std::printf("%zu of %zu tuned, the others are best as they are; %s has %zu\n", num_tuned,
              num_tried, run.out.c_str(), num_entries);
  return {};
}

}  // namespace

Command tune_command() {
  return {"tune", "finds the best cut of each product on this machine, for llm-worker",
          "",     0,
          flags,  run};
}

}  // namespace phalanx::bench
