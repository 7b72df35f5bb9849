// llm-bench kernels: each kernel of a model's shape alone, beside its roofline; or compared with
// the reference operators.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>

#include "launcher/bench/commands.h"
#include "launcher/bench/isa_flag.h"
#include "launcher/bench/kernel_check.h"
#include "launcher/bench/kernel_families.h"
#include "launcher/bench/machine_limits.h"
#include "launcher/core_placement.h"
#include "launcher/host_resources.h"
#include "launcher/machine_topology.h"
#include "launcher/stop_signal.h"

namespace phalanx::bench {
namespace {

using kernels::KvFormat;
using kernels::Operators;
using kernels::WeightFormat;
using Clock = std::chrono::steady_clock;

constexpr double kForkSampleSeconds = 0.002;

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ",") + name;
  return text;
}

std::vector<Flag> flags() {
  return {{"--shape", "NAME,...", "llama-3.2-1b", "of " + join(kernel_shape_names())},
          {"--kernels", "NAME,...", "all", "fork_join," + join(kernel_names())},
          {"--rows", "N,...", "1,4,8,16,32,512", "tokens of a step; of decode: sequences"},
          {"--weights", "FORMAT,...", "w8,w4,fp8,bf16,f32", "of linear, convert and embedding"},
          {"--kv", "FORMAT,...", "f32,bf16,int8", "of attention and write_kv"},
          {"--context", "N", "512", "tokens that each sequence of attention_decode sees"},
          {"--group-size", "N", "0", "quantization group; 0: the shape's own"},
          {"--threads", "N", "0", "0: all cores"},
          isa_flag(),
          {"--repetitions", "N", "7", "samples of each row, by turns with its limits"},
          {"--sample-ms", "N", "15", "milliseconds that a sample takes"},
          {"--check", "", "", "compare with the reference operators instead of timing"}};
}

struct KernelBench {
  std::vector<KernelShape> shapes;
  KernelSelection selection;
  bool forks = false;
  std::vector<int64_t> rows;
  int64_t group_size = 0;
  int num_threads = 1;
  kernels::IsaTier isa_tier = kernels::IsaTier::kPortable;
  int64_t repetitions = 0;
  double sample_seconds = 0;
  bool checks = false;
};

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// The format of that name; the names have been checked.
template <typename Format, typename Name>
std::vector<Format> formats_named(const std::vector<std::string>& names,
                                  const std::vector<Format>& all, Name name_of) {
  std::vector<Format> formats;
  for (const std::string& name : names) {
    formats.push_back(*std::find_if(all.begin(), all.end(),
                                    [&](Format format) { return name == name_of(format); }));
  }
  return formats;
}

Result<KernelBench> read_bench(const BenchOptions& options) {
  KernelBench bench;
  PHALANX_ASSIGN_OR_RETURN(const std::vector<std::string> shapes,
                           options.some_of("--shape", kernel_shape_names()));
  for (const std::string& name : shapes) {
    PHALANX_ASSIGN_OR_RETURN(KernelShape shape, find_kernel_shape(name));
    bench.shapes.push_back(std::move(shape));
  }
  std::vector<std::string> names = kernel_names();
  names.emplace_back("fork_join");
  if (options.is_set("--kernels") && options.text("--kernels") != "all") {
    PHALANX_ASSIGN_OR_RETURN(names, options.some_of("--kernels", names));
  }
  bench.selection.names = names;
  bench.forks = std::find(names.begin(), names.end(), "fork_join") != names.end();
  PHALANX_ASSIGN_OR_RETURN(bench.rows, options.integers("--rows", 1, 8192));
  bench.selection.largest_rows = *std::max_element(bench.rows.begin(), bench.rows.end());
  PHALANX_ASSIGN_OR_RETURN(const std::vector<std::string> weights,
                           options.some_of("--weights", {"f32", "bf16", "w8", "w4", "fp8"}));
  bench.selection.weights =
      formats_named(weights,
                    std::vector{WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                                WeightFormat::kW4, WeightFormat::kFp8},
                    kernels::weight_format_name);
  PHALANX_ASSIGN_OR_RETURN(const std::vector<std::string> kv,
                           options.some_of("--kv", {"f32", "bf16", "int8"}));
  bench.selection.kv = formats_named(
      kv, std::vector{KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8}, kernels::kv_format_name);
  PHALANX_ASSIGN_OR_RETURN(bench.selection.context, options.integer("--context", 1, 1 << 20));
  PHALANX_ASSIGN_OR_RETURN(bench.group_size, options.integer("--group-size", 0, 4096));
  PHALANX_ASSIGN_OR_RETURN(const int64_t threads, options.integer("--threads", 0, 1024));
  const cpu_set_t cores = launcher::affinity();
  bench.num_threads = threads > 0 ? static_cast<int>(threads) : std::max(1, CPU_COUNT(&cores));
  PHALANX_ASSIGN_OR_RETURN(bench.isa_tier, read_isa_flag(options));
  PHALANX_ASSIGN_OR_RETURN(bench.repetitions, options.integer("--repetitions", 1, 10'000));
  PHALANX_ASSIGN_OR_RETURN(const int64_t sample_ms, options.integer("--sample-ms", 1, 10'000));
  bench.sample_seconds = static_cast<double>(sample_ms) * 1e-3;
  bench.checks = options.is_set("--check");
  return bench;
}

RowIds rows_up_to(int64_t count) {
  RowIds rows;
  for (int64_t i = 0; i < count; ++i) rows.push_back(i);
  return rows;
}

std::unique_ptr<Operators> make_operators(const KernelBench& bench) {
  const cpu_set_t cores = launcher::affinity();
  kernels::CpuBackendOptions options;
  options.num_threads = bench.num_threads;
  options.isa_tier = bench.isa_tier;
  options.spin = bench.num_threads <= CPU_COUNT(&cores);
  options.cpus = launcher::place_threads(launcher::read_topology(), launcher::list_of(cores),
                                         bench.num_threads);
  return kernels::make_cpu_operators(options);
}

/// Times cases by turns with the limits.
class KernelTimer {
 public:
  /// Made before the operators, which bind the calling thread.
  explicit KernelTimer(const KernelBench& bench)
      : bench_(bench), limits_(bench.num_threads, {bench.isa_tier, 0.010}) {}

  /// Bytes that stay in the caches, all threads together.
  int64_t cached_bytes() const {
    int64_t bytes = 0;
    for (const ReadFrom from : limits_.levels()) {
      if (from != ReadFrom::kDram) bytes = 2 * limits_.working_set_bytes(from);
    }
    return bytes;
  }
  int64_t uncached_bytes() const { return limits_.working_set_bytes(ReadFrom::kDram); }

  Measurement time(const KernelFamily& family, KernelCase& kernel, int64_t num_rows) {
    const KernelCost& cost = kernel.cost();
    const ReadFrom level = level_of(cost.footprint_bytes);
    Measurement m = row(family);
    m.parameters.emplace_back("rows", std::to_string(num_rows));
    const double amount = family.computes ? cost.ops : cost.bytes;
    m.unit = family.computes ? "GOP/s" : "GB/s";
    m.details = {
        {"ops", cost.ops}, {"bytes", cost.bytes}, {"footprint_bytes", cost.footprint_bytes}};

    kernel.run();
    const auto begin = Clock::now();
    kernel.run();
    const double once = seconds_since(begin);
    const auto calls = std::max<int64_t>(
        1, static_cast<int64_t>(std::ceil(bench_.sample_seconds / std::max(once, 1e-8))));
    Limit limit;
    int64_t num_memory_bound = 0;
    Machine before = sample(level, cost);
    std::vector<double> bandwidths;
    std::vector<double> peaks;
    for (int64_t i = 0; i < bench_.repetitions; ++i) {
      check_stop();
      const auto start = Clock::now();
      for (int64_t call = 0; call < calls; ++call) kernel.run();
      const double seconds = seconds_since(start) / static_cast<double>(calls);
      const Machine after = sample(level, cost);
      const double gbs = (before.read_gbs + after.read_gbs) / 2;
      const double gops = (before.peak_gops + after.peak_gops) / 2;
      before = after;
      const double memory = cost.bytes / gbs * 1e-9;
      const double compute = cost.ops > 0 ? cost.ops / gops * 1e-9 : 0;
      if (memory > compute) ++num_memory_bound;
      m.samples.push_back(amount / seconds * 1e-9);
      limit.samples.push_back(amount / std::max(memory, compute) * 1e-9);
      bandwidths.push_back(gbs);
      peaks.push_back(gops);
    }
    const bool is_memory_bound = 2 * num_memory_bound > bench_.repetitions;
    limit.name = is_memory_bound ? std::string(read_from_name(level)) + " reading"
                                 : std::string(peak_kind_name(cost.peak)) + " peak";
    m.limit = std::move(limit);
    m.details.emplace_back("read_gbs", quantile(bandwidths, 0.5));
    if (cost.ops > 0) m.details.emplace_back("peak_gops", quantile(peaks, 0.5));
    return m;
  }

  /// What it costs to start all threads on something and wait for them.
  Measurement time_fork_join(Operators& operators) {
    Measurement m;
    m.name = "fork_join";
    m.parameters = {{"threads", std::to_string(bench_.num_threads)}};
    m.unit = "us";
    m.better = Better::kLower;
    const std::function<void(int64_t)> nothing = [](int64_t) {};
    for (int64_t i = 0; i < std::max<int64_t>(bench_.repetitions, 15); ++i) {
      const auto begin = Clock::now();
      int64_t count = 0;
      double seconds = 0;
      do {
        for (int call = 0; call < 100; ++call)
          operators.for_each_on_host(bench_.num_threads, nothing);
        count += 100;
        seconds = seconds_since(begin);
      } while (seconds < kForkSampleSeconds);
      m.samples.push_back(seconds / static_cast<double>(count) * 1e6);
    }
    return m;
  }

 private:
  struct Machine {
    double read_gbs = 0;
    double peak_gops = 0;
  };
  Machine sample(ReadFrom level, const KernelCost& cost) {
    return {limits_.read_gbs(level), cost.ops > 0 ? limits_.peak_gops(cost.peak) : 0};
  }

  Measurement row(const KernelFamily& family) const {
    Measurement m;
    m.name = family.name;
    m.parameters = family.parameters;
    m.parameters.emplace_back("threads", std::to_string(bench_.num_threads));
    m.parameters.emplace_back("isa", kernels::isa_tier_name(bench_.isa_tier));
    return m;
  }

  /// The smallest level that holds so many bytes.
  ReadFrom level_of(double bytes) const {
    for (const ReadFrom from : limits_.levels()) {
      if (from != ReadFrom::kDram &&
          bytes <= 2 * static_cast<double>(limits_.working_set_bytes(from)))
        return from;
    }
    return ReadFrom::kDram;
  }

  const KernelBench& bench_;
  MachineLimits limits_;
};

std::vector<int64_t> rows_of(const KernelBench& bench, const KernelFamily& family) {
  std::vector<int64_t> counts;
  for (const int64_t count : bench.rows) {
    if (family.most_rows == 0 || count <= family.most_rows) counts.push_back(count);
  }
  return counts;
}

Result<std::vector<KernelFamily>> families_of(const KernelBench& bench, const KernelShape& shape) {
  KernelSelection selection = bench.selection;
  selection.group_size = bench.group_size > 0 ? bench.group_size : shape.group_size;
  return kernel_families(shape, selection);
}

Status check(const KernelBench& bench, Report& report) {
  const auto operators = make_operators(bench);
  const auto reference = kernels::make_reference_operators();
  int64_t num_checked = 0;
  for (const KernelShape& shape : bench.shapes) {
    PHALANX_ASSIGN_OR_RETURN(const std::vector<KernelFamily> families, families_of(bench, shape));
    for (const KernelFamily& family : families) {
      const CaseMaker ours = family.prepare(*operators, /*walks=*/false);
      const CaseMaker theirs = family.prepare(*reference, /*walks=*/false);
      std::string what = family.name;
      for (const auto& [name, value] : family.parameters) what += " " + name + "=" + value;
      for (const int64_t count : rows_of(bench, family)) {
        check_stop();
        const RowIds checked = rows_to_check(count, family.ops_per_row);
        const auto got = ours(rows_up_to(count));
        const auto expected = theirs(checked);
        got->run();
        expected->run();
        const std::string here = what + " rows=" + std::to_string(count);
        PHALANX_RETURN_IF_ERROR(compare_rows(here, *got, *expected, checked, family.tolerance));
        std::printf("%-60s ok, %zu rows %s\n", here.c_str(), checked.size(),
                    family.tolerance > 0 ? "within the tolerance" : "bit by bit");
        std::fflush(stdout);
        ++num_checked;
      }
    }
  }
  report.set_fact("checked_cases", num_checked);
  return {};
}

Status measure(KernelBench& bench, Report& report) {
  KernelTimer timer(bench);
  bench.selection.cached_bytes = timer.cached_bytes();
  bench.selection.uncached_bytes = timer.uncached_bytes();
  const auto operators = make_operators(bench);
  report.set_fact("operators", operators->description());
  if (bench.forks) report.add(timer.time_fork_join(*operators));
  for (const KernelShape& shape : bench.shapes) {
    PHALANX_ASSIGN_OR_RETURN(const std::vector<KernelFamily> families, families_of(bench, shape));
    for (const KernelFamily& family : families) {
      const std::vector<int64_t> counts = rows_of(bench, family);
      if (counts.empty()) continue;
      check_stop();
      const CaseMaker make = family.prepare(*operators, /*walks=*/true);
      for (const int64_t count : counts) {
        const auto kernel = make(rows_up_to(count));
        report.add(timer.time(family, *kernel, count));
      }
    }
  }
  return {};
}

Status run(const BenchOptions& options, Report& report) {
  PHALANX_ASSIGN_OR_RETURN(KernelBench bench, read_bench(options));
  return bench.checks ? check(bench, report) : measure(bench, report);
}

}  // namespace

Command kernels_command() {
  return {"kernels", "each kernel alone, beside its roofline or against the reference",
          "",        0,
          flags,     run};
}

}  // namespace phalanx::bench
