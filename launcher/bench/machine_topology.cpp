// Reads the small text files of sysfs. Called by machine_limits and llm-bench limits.
#include "launcher/bench/machine_topology.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <set>
#include <utility>

namespace phalanx::bench {
namespace {

namespace fs = std::filesystem;

/// A cpu number above this is no cpu but a broken file.
constexpr int kMaxCpus = 1 << 16;

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::optional<int64_t> parse_number(const char* begin, const char* end, const char** rest) {
  int64_t number = 0;
  const auto [stop, code] = std::from_chars(begin, end, number);
  if (code != std::errc() || number < 0) return std::nullopt;
  *rest = stop;
  return number;
}

/// A file that holds one number, perhaps with a unit; `fallback` for anything else.
int64_t number_in(const fs::path& path, int64_t fallback) {
  const std::string line = first_line(path);
  const char* rest = nullptr;
  return parse_number(line.data(), line.data() + line.size(), &rest).value_or(fallback);
}

/// "32K", "8M", "512": bytes; 0 for what it is not.
int64_t size_in(const fs::path& path) {
  const std::string line = first_line(path);
  const char* end = line.data() + line.size();
  const char* rest = nullptr;
  const auto number = parse_number(line.data(), end, &rest);
  if (!number || *number > (int64_t{1} << 40)) return 0;
  if (rest == end) return *number;
  if (rest + 1 != end) return 0;
  switch (*rest) {
    case 'K':
      return *number << 10;
    case 'M':
      return *number << 20;
    case 'G':
      return *number << 30;
    default:
      return 0;
  }
}

std::vector<CpuCache> read_caches(const fs::path& cpu_root, const std::vector<int>& cpus) {
  std::set<std::pair<int, std::vector<int>>> seen;  // level and sharers name a cache
  std::vector<CpuCache> caches;
  for (const int cpu : cpus) {
    const fs::path folder = cpu_root / ("cpu" + std::to_string(cpu)) / "cache";
    for (int index = 0; index < 16; ++index) {
      const fs::path entry = folder / ("index" + std::to_string(index));
      const std::string type = first_line(entry / "type");
      if (type != "Data" && type != "Unified") continue;
      CpuCache cache;
      cache.level = static_cast<int>(number_in(entry / "level", 0));
      cache.bytes = size_in(entry / "size");
      cache.cpus = parse_cpu_list(first_line(entry / "shared_cpu_list"));
      if (cache.cpus.empty()) cache.cpus = {cpu};
      if (cache.level < 1 || cache.level > 8 || cache.bytes == 0) continue;
      if (seen.emplace(cache.level, cache.cpus).second) caches.push_back(std::move(cache));
    }
  }
  std::sort(caches.begin(), caches.end(), [](const CpuCache& a, const CpuCache& b) {
    return std::pair(a.level, a.cpus.front()) < std::pair(b.level, b.cpus.front());
  });
  return caches;
}

int64_t node_memory_bytes(const fs::path& node) {
  std::ifstream file(node / "meminfo");
  for (std::string line; std::getline(file, line);) {
    const size_t key = line.find("MemTotal:");
    if (key == std::string::npos) continue;
    const size_t begin = line.find_first_of("0123456789", key);
    if (begin == std::string::npos) return 0;
    const char* rest = nullptr;
    return parse_number(line.data() + begin, line.data() + line.size(), &rest).value_or(0) << 10;
  }
  return 0;
}

}  // namespace

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

int MachineTopology::num_cores() const {
  std::set<std::pair<int, int>> cores;
  for (const LogicalCpu& cpu : cpus) cores.emplace(cpu.package, cpu.core);
  return static_cast<int>(cores.size());
}

int MachineTopology::num_packages() const {
  std::set<int> packages;
  for (const LogicalCpu& cpu : cpus) packages.insert(cpu.package);
  return static_cast<int>(packages.size());
}

int MachineTopology::threads_per_core() const {
  std::multiset<std::pair<int, int>> cores;
  size_t most = 1;
  for (const LogicalCpu& cpu : cpus) {
    cores.emplace(cpu.package, cpu.core);
    most = std::max(most, cores.count({cpu.package, cpu.core}));
  }
  return static_cast<int>(most);
}

int64_t MachineTopology::cache_bytes(int level, int cpu) const {
  for (const CpuCache& cache : caches) {
    if (cache.level == level &&
        std::find(cache.cpus.begin(), cache.cpus.end(), cpu) != cache.cpus.end())
      return cache.bytes;
  }
  return 0;
}

int MachineTopology::num_caches(int level, const std::vector<int>& used_cpus) const {
  int count = 0;
  for (const CpuCache& cache : caches) {
    const bool is_used = std::any_of(used_cpus.begin(), used_cpus.end(), [&](int cpu) {
      return std::find(cache.cpus.begin(), cache.cpus.end(), cpu) != cache.cpus.end();
    });
    if (cache.level == level && is_used) ++count;
  }
  return count;
}

MachineTopology read_topology(const fs::path& sysfs) {
  MachineTopology topology;
  const fs::path cpu_root = sysfs / "devices/system/cpu";
  const fs::path node_root = sysfs / "devices/system/node";
  std::vector<int> cpus = parse_cpu_list(first_line(cpu_root / "online"));
  if (cpus.empty()) cpus = {0};

  for (const int node : parse_cpu_list(first_line(node_root / "online"))) {
    const fs::path folder = node_root / ("node" + std::to_string(node));
    topology.nodes.push_back(
        {node, parse_cpu_list(first_line(folder / "cpulist")), node_memory_bytes(folder)});
  }
  if (topology.nodes.empty()) topology.nodes.push_back({0, cpus, 0});

  for (const int cpu : cpus) {
    const fs::path folder = cpu_root / ("cpu" + std::to_string(cpu)) / "topology";
    LogicalCpu found{cpu, static_cast<int>(number_in(folder / "core_id", cpu)),
                     static_cast<int>(number_in(folder / "physical_package_id", 0)), 0};
    for (const MemoryNode& node : topology.nodes) {
      if (std::find(node.cpus.begin(), node.cpus.end(), cpu) != node.cpus.end())
        found.node = node.node;
    }
    topology.cpus.push_back(found);
  }
  topology.caches = read_caches(cpu_root, cpus);
  return topology;
}

nlohmann::ordered_json topology_json(const MachineTopology& topology) {
  using nlohmann::ordered_json;
  ordered_json cpus = ordered_json::array();
  for (const LogicalCpu& cpu : topology.cpus)
    cpus.push_back(
        {{"cpu", cpu.cpu}, {"core", cpu.core}, {"package", cpu.package}, {"node", cpu.node}});
  ordered_json caches = ordered_json::array();
  for (const CpuCache& cache : topology.caches)
    caches.push_back(
        {{"level", cache.level}, {"bytes", cache.bytes}, {"cpus", format_cpu_list(cache.cpus)}});
  ordered_json nodes = ordered_json::array();
  for (const MemoryNode& node : topology.nodes)
    nodes.push_back({{"node", node.node},
                     {"cpus", format_cpu_list(node.cpus)},
                     {"memory_bytes", node.memory_bytes}});
  return {{"packages", topology.num_packages()},
          {"cores", topology.num_cores()},
          {"threads_per_core", topology.threads_per_core()},
          {"cpus", cpus},
          {"caches", caches},
          {"nodes", nodes}};
}

}  // namespace phalanx::bench
