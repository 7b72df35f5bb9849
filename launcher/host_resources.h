// What this host gives a process: memory and cores, with the limits of its control groups. Read by
// the launcher before it decides sizes.
#pragma once

#include <sched.h>

#include <cstdint>
#include <filesystem>
#include <vector>

namespace phalanx::launcher {

/// Where the kernel tells; tests pass directories of their own.
struct HostPaths {
  std::filesystem::path proc = "/proc";
  std::filesystem::path cgroup = "/sys/fs/cgroup";
};

/// Bytes this process could take without swapping: MemAvailable, and no more than what any control
/// group it is in has left (memory.max less memory.current, where file cache that the kernel would
/// give up counts as free; version 1: memory.limit_in_bytes). 1 GiB where /proc tells nothing.
/// Source: Linux Documentation/admin-guide/cgroup-v2.rst, "Memory".
int64_t available_memory_bytes(const HostPaths& paths = {});

/// Whole cores' worth of time that the control groups grant (cpu.max, rounded up; version 1:
/// cpu.cfs_quota_us); INT_MAX where they set no limit.
int cpu_quota_cores(const HostPaths& paths = {});

/// The calling thread's affinity while this lives becomes `cores`, then again what it was. Threads
/// started meanwhile keep `cores`. A mask that the kernel refuses changes nothing.
class AffinityScope {
 public:
  explicit AffinityScope(const cpu_set_t& cores);
  ~AffinityScope();
  AffinityScope(const AffinityScope&) = delete;
  AffinityScope& operator=(const AffinityScope&) = delete;

 private:
  cpu_set_t before_;
};

/// Cores the calling thread may run on.
cpu_set_t affinity();

/// Cores it could run on if nobody had bound it: those of its cpuset (or all, without one).
cpu_set_t cpuset_cores();

/// The processors of a mask, ascending.
std::vector<int> list_of(const cpu_set_t& cores);

}  // namespace phalanx::launcher
