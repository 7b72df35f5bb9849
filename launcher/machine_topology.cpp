// Asks hwloc and copies what we need, so that nothing else of the project knows it. Called by
// worker_setup and llm-bench.
#include "launcher/machine_topology.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <type_traits>
#include <utility>

#include <hwloc.h>

#include "runtime/base/log.h"

namespace phalanx::launcher {
namespace {

/// A cpu number above this is no cpu but nonsense.
constexpr int kMaxCpus = 1 << 16;

struct TopologyDeleter {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, TopologyDeleter>;

struct BitmapDeleter {
  void operator()(hwloc_bitmap_t bitmap) const { hwloc_bitmap_free(bitmap); }
};
using Bitmap = std::unique_ptr<std::remove_pointer_t<hwloc_bitmap_t>, BitmapDeleter>;

/// Loads after `describe(topology)`, which returns 0 or says why not by errno; null when refused.
template <typename Describe>
Topology load(Describe&& describe) {
  hwloc_topology_t made = nullptr;
  if (hwloc_topology_init(&made) != 0) return nullptr;
  Topology topology(made);
  // The whole machine: what this process may use of it is asked of the kernel (host_resources).
  if (hwloc_topology_set_flags(made, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED) != 0) return nullptr;
  if (describe(made) != 0 || hwloc_topology_load(made) != 0) return nullptr;
  return topology;
}

/// The kernel's number of the object of `type` above `object`; `fallback` where there is none.
int number_above(hwloc_topology_t topology, hwloc_obj_type_t type, hwloc_obj_t object,
                 int fallback) {
  const hwloc_obj_t above = hwloc_get_ancestor_obj_by_type(topology, type, object);
  if (above == nullptr || above->os_index == HWLOC_UNKNOWN_INDEX) return fallback;
  return static_cast<int>(above->os_index);
}

std::vector<int> members(hwloc_const_bitmap_t bitmap) {
  std::vector<int> cpus;
  if (bitmap == nullptr || hwloc_bitmap_weight(bitmap) < 0) return cpus;
  for (int cpu = hwloc_bitmap_first(bitmap); cpu >= 0; cpu = hwloc_bitmap_next(bitmap, cpu))
    cpus.push_back(cpu);
  return cpus;
}

std::vector<MemoryNode> find_nodes(hwloc_topology_t topology) {
  std::vector<MemoryNode> nodes;
  for (hwloc_obj_t object = nullptr;
       (object = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, object)) != nullptr;) {
    nodes.push_back({static_cast<int>(object->os_index), members(object->cpuset),
                     static_cast<int64_t>(object->attr->numanode.local_memory)});
  }
  std::sort(nodes.begin(), nodes.end(),
            [](const MemoryNode& a, const MemoryNode& b) { return a.node < b.node; });
  return nodes;
}

std::vector<LogicalCpu> find_cpus(hwloc_topology_t topology) {
  std::vector<LogicalCpu> cpus;
  int num_cores = 0;
  hwloc_obj_t last_core = nullptr;
  for (hwloc_obj_t object = nullptr;
       (object = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, object)) != nullptr;) {
    LogicalCpu found;
    found.cpu = static_cast<int>(object->os_index);
    found.core = number_above(topology, HWLOC_OBJ_CORE, object, found.cpu);
    found.package = number_above(topology, HWLOC_OBJ_PACKAGE, object, 0);
    found.order = static_cast<int>(cpus.size());
    const hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, object);
    if (core == nullptr || core != last_core) ++num_cores;  // a core's processors are neighbours
    last_core = core;
    found.whole_core = num_cores - 1;
    cpus.push_back(found);
  }
  std::sort(cpus.begin(), cpus.end(),
            [](const LogicalCpu& a, const LogicalCpu& b) { return a.cpu < b.cpu; });
  return cpus;
}

void find_speeds(hwloc_topology_t topology, std::vector<LogicalCpu>& cpus) {
  const Bitmap of_kind(hwloc_bitmap_alloc());
  const int num_kinds = hwloc_cpukinds_get_nr(topology, 0);
  for (int kind = 0; kind < num_kinds; ++kind) {
    int speed = -1;
    if (hwloc_cpukinds_get_info(topology, static_cast<unsigned>(kind), of_kind.get(), &speed,
                                nullptr, nullptr, 0) != 0)
      continue;
    for (LogicalCpu& cpu : cpus) {
      if (hwloc_bitmap_isset(of_kind.get(), static_cast<unsigned>(cpu.cpu)) != 0)
        cpu.speed = std::max(speed, 0);
    }
  }
}

std::vector<CpuCache> find_caches(hwloc_topology_t topology) {
  std::vector<CpuCache> caches;
  for (const hwloc_obj_type_t type : {HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE,
                                      HWLOC_OBJ_L4CACHE, HWLOC_OBJ_L5CACHE}) {
    for (hwloc_obj_t object = nullptr;
         (object = hwloc_get_next_obj_by_type(topology, type, object)) != nullptr;) {
      const auto& cache = object->attr->cache;
      std::vector<int> sharers = members(object->cpuset);
      if (cache.size == 0 || sharers.empty()) continue;
      caches.push_back(
          {static_cast<int>(cache.depth), static_cast<int64_t>(cache.size), std::move(sharers)});
    }
  }
  std::sort(caches.begin(), caches.end(), [](const CpuCache& a, const CpuCache& b) {
    return std::pair(a.level, a.cpus.front()) < std::pair(b.level, b.cpus.front());
  });
  return caches;
}

MachineTopology copy_of(hwloc_topology_t topology) {
  MachineTopology machine;
  machine.cpus = find_cpus(topology);
  find_speeds(topology, machine.cpus);
  machine.caches = find_caches(topology);
  machine.nodes = find_nodes(topology);
  for (LogicalCpu& cpu : machine.cpus) {
    for (const MemoryNode& node : machine.nodes) {
      if (!std::binary_search(node.cpus.begin(), node.cpus.end(), cpu.cpu)) continue;
      cpu.node = node.node;
      break;
    }
  }
  return machine;
}

MachineTopology topology_without_hwloc() {
  MachineTopology machine;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0) CPU_SET(0, &mask);
  MemoryNode node;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    LogicalCpu found;
    found.cpu = found.core = cpu;
    found.order = found.whole_core = static_cast<int>(machine.cpus.size());
    machine.cpus.push_back(found);
    node.cpus.push_back(cpu);
  }
  machine.nodes.push_back(std::move(node));
  return machine;
}

std::optional<int64_t> parse_number(const char* begin, const char* end, const char** rest) {
  int64_t number = 0;
  const auto [stop, code] = std::from_chars(begin, end, number);
  if (code != std::errc() || number < 0) return std::nullopt;
  *rest = stop;
  return number;
}

}  // namespace

int MachineTopology::num_cores() const {
  std::set<int> cores;
  for (const LogicalCpu& cpu : cpus) cores.insert(cpu.whole_core);
  return static_cast<int>(cores.size());
}

int MachineTopology::num_packages() const {
  std::set<int> packages;
  for (const LogicalCpu& cpu : cpus) packages.insert(cpu.package);
  return static_cast<int>(packages.size());
}

int MachineTopology::threads_per_core() const {
  std::multiset<int> cores;
  size_t most = 1;
  for (const LogicalCpu& cpu : cpus) {
    cores.insert(cpu.whole_core);
    most = std::max(most, cores.count(cpu.whole_core));
  }
  return static_cast<int>(most);
}

int64_t MachineTopology::cache_bytes(int level, int cpu) const {
  for (const CpuCache& cache : caches) {
    if (cache.level == level && std::binary_search(cache.cpus.begin(), cache.cpus.end(), cpu))
      return cache.bytes;
  }
  return 0;
}

int MachineTopology::num_caches(int level, const std::vector<int>& used_cpus) const {
  int count = 0;
  for (const CpuCache& cache : caches) {
    const bool is_used = std::any_of(used_cpus.begin(), used_cpus.end(), [&](int cpu) {
      return std::binary_search(cache.cpus.begin(), cache.cpus.end(), cpu);
    });
    if (cache.level == level && is_used) ++count;
  }
  return count;
}

std::vector<int> MachineTopology::nodes_of(const std::vector<int>& used_cpus) const {
  std::set<int> found;
  for (const LogicalCpu& cpu : cpus) {
    if (std::find(used_cpus.begin(), used_cpus.end(), cpu.cpu) != used_cpus.end())
      found.insert(cpu.node);
  }
  return {found.begin(), found.end()};
}

MachineTopology read_topology() {
  const Topology topology = load([](hwloc_topology_t) { return 0; });
  if (topology != nullptr) return copy_of(topology.get());
  PHALANX_WARNING("hwloc does not tell this machine's topology ("
                  << std::strerror(errno) << "): every cpu counts as a core");
  return topology_without_hwloc();
}

Result<MachineTopology> topology_of_synthetic(const std::string& description) {
  const Topology topology = load([&](hwloc_topology_t made) {
    return hwloc_topology_set_synthetic(made, description.c_str());
  });
  if (topology == nullptr)
    return invalid_argument("no machine in hwloc's synthetic notation: \"" + description + "\"");
  return copy_of(topology.get());
}

Result<MachineTopology> topology_of_xml(const std::string& xml) {
  const Topology topology = load([&](hwloc_topology_t made) {
    // The size counts the terminating null.
    return hwloc_topology_set_xmlbuffer(made, xml.c_str(), static_cast<int>(xml.size()) + 1);
  });
  if (topology == nullptr) return invalid_argument("no machine in hwloc's XML");
  return copy_of(topology.get());
}

std::vector<int> parse_cpu_list(const std::string& text) {
  std::vector<int> cpus;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at != end) {
    const auto first = parse_number(at, end, &at);
    if (!first || *first >= kMaxCpus) return {};
    int64_t last = *first;
    if (at != end && *at == '-') {
      const auto given = parse_number(at + 1, end, &at);
      if (!given || *given < *first || *given >= kMaxCpus) return {};
      last = *given;
    }
    for (int64_t cpu = *first; cpu <= last; ++cpu) cpus.push_back(static_cast<int>(cpu));
    if (at == end || *at == '\n') break;
    if (*at++ != ',') return {};
  }
  return cpus;
}

std::string format_cpu_list(const std::vector<int>& cpus) {
  std::string text;
  for (size_t begin = 0; begin < cpus.size();) {
    size_t end = begin + 1;
    while (end < cpus.size() && cpus[end] == cpus[end - 1] + 1) ++end;
    if (!text.empty()) text += ',';
    text += std::to_string(cpus[begin]);
    if (end - begin > 1) text += '-' + std::to_string(cpus[end - 1]);
    begin = end;
  }
  return text;
}

}  // namespace phalanx::launcher
