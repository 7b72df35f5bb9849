// Memory and cores as the kernel tells them. Called by worker_setup and worker_job.
#include "launcher/host_resources.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace phalanx::launcher {
namespace {

using std::filesystem::path;

/// The number after `name` in lines of "name number ...".
std::optional<int64_t> number_after(const path& file, const std::string& name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string key;
    int64_t value = 0;
    if (words >> key >> value && key == name) return value;
  }
  return std::nullopt;
}

/// A file of one number; nullopt for "max" and for no file.
std::optional<int64_t> only_number(const path& file) {
  std::ifstream in(file);
  int64_t value = 0;
  if (in >> value) return value;
  return std::nullopt;
}

/// Directories of this process's control group and of those above it that exist here: a container
/// may show its own group as the root, whatever path the kernel names.
/// `controller`: "" is version 2, else the name of a version 1 hierarchy.
std::vector<path> group_directories(const HostPaths& paths, const std::string& controller) {
  std::vector<path> found;
  std::ifstream in(paths.proc / "self" / "cgroup");
  for (std::string line; std::getline(in, line);) {  // hierarchy:controller,controller:/path
    const size_t first = line.find(':');
    const size_t second = line.find(':', first == std::string::npos ? first : first + 1);
    if (second == std::string::npos) continue;
    const std::string names = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool is_wanted = controller.empty()
                               ? names == ",,"
                               : names.find("," + controller + ",") != std::string::npos;
    if (!is_wanted) continue;
    const path root = controller.empty() ? paths.cgroup : paths.cgroup / controller;
    for (path group = path(line.substr(second + 1)).relative_path();; group = group.parent_path()) {
      if (std::filesystem::is_directory(root / group)) found.push_back(root / group);
      if (group.empty()) break;
    }
  }
  return found;
}

void lower(int64_t* bound, std::optional<int64_t> limit, std::optional<int64_t> used,
           std::optional<int64_t> reclaimable) {
  if (!limit || !used) return;
  // Version 1 says "no limit" by a huge number.
  if (*limit > std::numeric_limits<int64_t>::max() / 2) return;
  *bound = std::min(*bound, std::max<int64_t>(*limit - *used + reclaimable.value_or(0), 0));
}

/// ceil(quota / period)
void lower_cores(int* bound, std::optional<int64_t> quota, std::optional<int64_t> period) {
  if (!quota || !period || *quota <= 0 || *period <= 0) return;
  *bound = static_cast<int>(std::min<int64_t>(*bound, (*quota + *period - 1) / *period));
}

}  // namespace

int64_t available_memory_bytes(const HostPaths& paths) {
  constexpr int64_t kUnknown = int64_t{1} << 30;
  const auto free_kib = number_after(paths.proc / "meminfo", "MemAvailable:");
  int64_t bytes = free_kib ? *free_kib * 1024 : kUnknown;
  for (const path& group : group_directories(paths, "")) {
    lower(&bytes, only_number(group / "memory.max"), only_number(group / "memory.current"),
          number_after(group / "memory.stat", "inactive_file"));
  }
  for (const path& group : group_directories(paths, "memory")) {
    lower(&bytes, only_number(group / "memory.limit_in_bytes"),
          only_number(group / "memory.usage_in_bytes"),
          number_after(group / "memory.stat", "total_inactive_file"));
  }
  return bytes;
}

int cpu_quota_cores(const HostPaths& paths) {
  int cores = std::numeric_limits<int>::max();
  for (const path& group : group_directories(paths, "")) {
    std::ifstream in(group / "cpu.max");  // "200000 100000" or "max 100000"
    int64_t quota = 0;
    int64_t period = 0;
    if (in >> quota >> period) lower_cores(&cores, quota, period);
  }
  for (const path& group : group_directories(paths, "cpu")) {
    lower_cores(&cores, only_number(group / "cpu.cfs_quota_us"),
                only_number(group / "cpu.cfs_period_us"));
  }
  return cores;
}

cpu_set_t affinity() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) CPU_SET(0, &cores);
  return cores;
}

AffinityScope::AffinityScope(const cpu_set_t& cores) : before_(affinity()) {
  sched_setaffinity(0, sizeof(cores), &cores);
}

AffinityScope::~AffinityScope() { sched_setaffinity(0, sizeof(before_), &before_); }

cpu_set_t cpuset_cores() {
  cpu_set_t all;
  CPU_ZERO(&all);
  for (int core = 0; core < CPU_SETSIZE; ++core) CPU_SET(core, &all);
  const AffinityScope widest(all);  // the kernel keeps what the cpuset allows
  return affinity();
}

std::vector<int> list_of(const cpu_set_t& cores) {
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &cores)) cpus.push_back(cpu);
  }
  return cpus;
}

}  // namespace phalanx::launcher
