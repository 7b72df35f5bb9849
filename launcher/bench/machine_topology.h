// What sysfs says about this machine's cores, caches and memory nodes. Read by machine_limits and
// by llm-bench limits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace phalanx::bench {

/// One logical processor.
struct LogicalCpu {
  int cpu = 0;      ///< the kernel's number
  int core = 0;     ///< core id; unique within a package only
  int package = 0;  ///< socket
  int node = 0;     ///< NUMA node
};

/// One cache and who shares it. Instruction caches are left out.
struct CpuCache {
  int level = 0;
  int64_t bytes = 0;
  std::vector<int> cpus;  ///< that share it, ascending
};

struct MemoryNode {
  int node = 0;
  std::vector<int> cpus;
  int64_t memory_bytes = 0;
};

/// The online processors. What sysfs does not tell is left out: no caches, one node.
struct MachineTopology {
  std::vector<LogicalCpu> cpus;   ///< ascending by cpu
  std::vector<CpuCache> caches;   ///< ascending by level, then first cpu
  std::vector<MemoryNode> nodes;  ///< ascending by node

  int num_cores() const;  ///< distinct (package, core)
  int num_packages() const;
  /// Logical processors of the core with the most: 1 without SMT, or when a hypervisor hides it.
  int threads_per_core() const;
  /// Bytes of the cache of `level` that `cpu` uses; 0 when unknown.
  int64_t cache_bytes(int level, int cpu) const;
  /// How many caches of `level` the given processors use between them; 0 when unknown.
  int num_caches(int level, const std::vector<int>& used_cpus) const;
};

/// Reads `<sysfs>/devices/system/{cpu,node}`. Never fails: what is missing or malformed is left
/// out; without any processor listed there is one, cpu 0.
MachineTopology read_topology(const std::filesystem::path& sysfs = "/sys");

/// The kernel's list format: "0-3,8" is {0, 1, 2, 3, 8}; empty for what it is not.
std::vector<int> parse_cpu_list(const std::string& text);
std::string format_cpu_list(const std::vector<int>& cpus);  ///< the inverse; ascending input

nlohmann::ordered_json topology_json(const MachineTopology& topology);

}  // namespace phalanx::bench
