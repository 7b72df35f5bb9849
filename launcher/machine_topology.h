// This machine's cores, caches and memory nodes as hwloc sees them. Read by worker_setup and
// core_placement, and by llm-bench limits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace phalanx::launcher {

/// One logical processor.
struct LogicalCpu {
  int cpu = 0;         ///< the kernel's number
  int core = 0;        ///< the kernel's core id; unique within a package only
  int package = 0;     ///< socket
  int node = 0;        ///< NUMA node; the lowest of several
  int order = 0;       ///< place in hwloc's order, in which processors that share more are nearer
  int whole_core = 0;  ///< the core again, numbered over the whole machine in that order
  int speed = 0;       ///< higher is faster; 0 for all where cores are alike or their rank unknown
};

/// One cache and who shares it. Instruction caches are left out.
struct CpuCache {
  int level = 0;
  int64_t bytes = 0;
  std::vector<int> cpus;  ///< that share it, ascending
};

struct MemoryNode {
  int node = 0;
  std::vector<int> cpus;  ///< ascending; empty for memory without processors
  int64_t memory_bytes = 0;
};

/// The online processors, allowed to this process or not.
struct MachineTopology {
  std::vector<LogicalCpu> cpus;   ///< ascending by cpu
  std::vector<CpuCache> caches;   ///< ascending by level, then first cpu
  std::vector<MemoryNode> nodes;  ///< ascending by node

  int num_cores() const;
  int num_packages() const;
  /// Logical processors of the core with the most: 1 without SMT, or when a hypervisor hides it.
  int threads_per_core() const;
  /// Bytes of the cache of `level` that `cpu` uses; 0 when unknown.
  int64_t cache_bytes(int level, int cpu) const;
  /// How many caches of `level` the given processors use between them; 0 when unknown.
  int num_caches(int level, const std::vector<int>& used_cpus) const;
  /// NUMA nodes of the given processors, ascending; unknown ones have none.
  std::vector<int> nodes_of(const std::vector<int>& used_cpus) const;
};

/// The machine at hand. Never fails: where hwloc tells nothing there are the processors this thread
/// may run on, each a core of its own, one node and no caches. hwloc's environment is honoured
/// (HWLOC_XMLFILE, HWLOC_SYNTHETIC), so that a user can try a machine that is elsewhere.
MachineTopology read_topology();

/// A machine in hwloc's notation, "package:2 numa:2 l3:1 core:8 pu:2", or as `lstopo x.xml` writes
/// it. Errors: kInvalidArgument for what hwloc does not understand.
Result<MachineTopology> topology_of_synthetic(const std::string& description);
Result<MachineTopology> topology_of_xml(const std::string& xml);

/// The kernel's list format: "0-3,8" is {0, 1, 2, 3, 8}; empty for what it is not.
std::vector<int> parse_cpu_list(const std::string& text);
std::string format_cpu_list(const std::vector<int>& cpus);  ///< the inverse; ascending input

}  // namespace phalanx::launcher
