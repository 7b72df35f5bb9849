// Reports compare machines by it: names and order stay. Called by llm-bench limits.
#include "launcher/bench/topology_json.h"

namespace phalanx::bench {

nlohmann::ordered_json topology_json(const launcher::MachineTopology& topology) {
  using nlohmann::ordered_json;
  ordered_json cpus = ordered_json::array();
  for (const launcher::LogicalCpu& cpu : topology.cpus)
    cpus.push_back(
        {{"cpu", cpu.cpu}, {"core", cpu.core}, {"package", cpu.package}, {"node", cpu.node}});
  ordered_json caches = ordered_json::array();
  for (const launcher::CpuCache& cache : topology.caches)
    caches.push_back({{"level", cache.level},
                      {"bytes", cache.bytes},
                      {"cpus", launcher::format_cpu_list(cache.cpus)}});
  ordered_json nodes = ordered_json::array();
  for (const launcher::MemoryNode& node : topology.nodes)
    nodes.push_back({{"node", node.node},
                     {"cpus", launcher::format_cpu_list(node.cpus)},
                     {"memory_bytes", node.memory_bytes}});
  return {{"packages", topology.num_packages()},
          {"cores", topology.num_cores()},
          {"threads_per_core", topology.threads_per_core()},
          {"cpus", cpus},
          {"caches", caches},
          {"nodes", nodes}};
}

}  // namespace phalanx::bench
