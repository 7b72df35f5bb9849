// llm-bench limits: what this machine reads and computes at most, for every number of threads, and
// what it is made of.
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "launcher/bench/commands.h"
#include "launcher/bench/isa_flag.h"
#include "launcher/bench/machine_limits.h"
#include "launcher/bench/topology_json.h"
#include "launcher/host_resources.h"
#include "launcher/machine_topology.h"
#include "launcher/stop_signal.h"

namespace phalanx::bench {
namespace {

constexpr int64_t kMostThreads = 4096;

std::vector<Flag> flags() {
  return {{"--threads", "N,...", "", "how many threads (default: every count from 1 to the cores)"},
          isa_flag(),
          {"--repetitions", "N", "9", "samples of each row, all rows of a thread count by turns"},
          {"--sample-ms", "N", "10", "milliseconds that a sample takes"},
          {"--topology", "", "", "only print cores, caches and memory nodes"}};
}

std::string format_bytes(int64_t bytes) {
  char text[32];
  if (bytes >= int64_t{1} << 30) {
    std::snprintf(text, sizeof(text), "%.1f GiB", static_cast<double>(bytes) / (1 << 30));
  } else if (bytes >= int64_t{1} << 20) {
    std::snprintf(text, sizeof(text), "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  } else {
    std::snprintf(text, sizeof(text), "%lld KiB", static_cast<long long>(bytes >> 10));
  }
  return text;
}

void print_topology(const launcher::MachineTopology& topology) {
  std::printf("%d packages, %d cores, %zu processors (%d threads a core)\n",
              topology.num_packages(), topology.num_cores(), topology.cpus.size(),
              topology.threads_per_core());
  for (const launcher::LogicalCpu& cpu : topology.cpus)
    std::printf("  cpu %-4d core %-4d package %-3d node %d\n", cpu.cpu, cpu.core, cpu.package,
                cpu.node);
  for (const launcher::CpuCache& cache : topology.caches)
    std::printf("  L%d %-10s of cpus %s\n", cache.level, format_bytes(cache.bytes).c_str(),
                launcher::format_cpu_list(cache.cpus).c_str());
  for (const launcher::MemoryNode& node : topology.nodes)
    std::printf("  node %d %-10s at cpus %s\n", node.node, format_bytes(node.memory_bytes).c_str(),
                launcher::format_cpu_list(node.cpus).c_str());
  std::fflush(stdout);
}

/// The rows of one thread count, sampled by turns.
void measure(int num_threads, const MachineLimitsOptions& options, int64_t repetitions,
             Report& report) {
  MachineLimits limits(num_threads, options);
  const std::vector<ReadFrom> levels = limits.levels();
  const std::vector<PeakKind> kinds = {PeakKind::kInt8, PeakKind::kBf16, PeakKind::kF32};
  std::vector<Measurement> rows;
  const auto row = [&](const char* name, const char* parameter, const char* value,
                       const char* unit) {
    Measurement m;
    m.name = name;
    m.parameters = {{"threads", std::to_string(num_threads)},
                    {"isa", kernels::isa_tier_name(options.isa_tier)},
                    {parameter, value}};
    m.unit = unit;
    rows.push_back(std::move(m));
  };
  for (const ReadFrom from : levels) row("read", "from", read_from_name(from), "GB/s");
  for (const PeakKind kind : kinds) row("peak", "of", peak_kind_name(kind), "GOP/s");
  for (int64_t i = -1; i < repetitions; ++i) {  // the first touches memory and wakes the clocks
    check_stop();
    std::vector<double> values;
    for (const ReadFrom from : levels) values.push_back(limits.read_gbs(from));
    for (const PeakKind kind : kinds) values.push_back(limits.peak_gops(kind));
    if (i < 0) continue;
    for (size_t r = 0; r < rows.size(); ++r) rows[r].samples.push_back(values[r]);
  }
  for (Measurement& m : rows) report.add(std::move(m));
  for (const ReadFrom from : levels)
    report.set_fact("working_set_" + std::string(read_from_name(from)) + "_" +
                        std::to_string(num_threads) + "_threads_bytes",
                    limits.working_set_bytes(from));
  for (const PeakKind kind : kinds)
    report.set_fact("instruction_" + std::string(peak_kind_name(kind)),
                    limits.peak_instruction(kind));
}

Status run(const BenchOptions& options, Report& report) {
  PHALANX_ASSIGN_OR_RETURN(const int64_t repetitions, options.integer("--repetitions", 1, 10'000));
  PHALANX_ASSIGN_OR_RETURN(const int64_t sample_ms, options.integer("--sample-ms", 1, 10'000));
  MachineLimitsOptions limits;
  PHALANX_ASSIGN_OR_RETURN(limits.isa_tier, read_isa_flag(options));
  limits.sample_seconds = static_cast<double>(sample_ms) * 1e-3;
  std::vector<int64_t> counts;
  if (options.is_set("--threads")) {
    PHALANX_ASSIGN_OR_RETURN(counts, options.integers("--threads", 1, kMostThreads));
  } else {
    const cpu_set_t cores = launcher::affinity();
    counts.resize(static_cast<size_t>(std::max(1, CPU_COUNT(&cores))));
    std::iota(counts.begin(), counts.end(), 1);
  }

  const launcher::MachineTopology topology = launcher::read_topology();
  report.set_fact("topology", topology_json(topology));
  print_topology(topology);
  if (options.is_set("--topology")) return {};
  for (const int64_t count : counts) measure(static_cast<int>(count), limits, repetitions, report);
  return {};
}

}  // namespace

Command limits_command() {
  return {"limits", "read bandwidth, peaks and topology of this machine", "", 0, flags, run};
}

}  // namespace phalanx::bench
