// What this host gives a process: memory and cores, with the limits of its control groups. Read by
// the launcher before it decides sizes.
#pragma once

#include <sched.h>

#include <cstdint>
#include <filesystem>

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

/// How many threads a rank runs, and where.
struct CoreChoice {
  int num_threads = 1;
  bool widens = false;  ///< the rank must leave the binding that mpirun gave it
  bool spins = false;   ///< all ranks' threads together do not outnumber the host's cores
  int first_core = 0;   ///< when threads are pinned: index of the first, among the allowed cores
};

/// What is known of the cores when the choice is made.
struct CoreFacts {
  int cpuset_cores = 1;          ///< of the cpuset, and at most the quota
  int bound_cores = 1;           ///< of the affinity mask at start
  bool bound_by_mpirun = false;  ///< by mpirun's default, not by the user's or the scheduler's will
  int local_size = 1;            ///< ranks on this host
  int local_rank = 0;
};

/// `asked` threads, or for 0 a rank's equal share of the host. A mask that a user (taskset) or a
/// job scheduler (Slurm) set is kept, and bounds the automatic choice; mpirun's own default of one
/// core a rank is not.
CoreChoice choose_cores(const CoreFacts& facts, int asked);

}  // namespace phalanx::launcher
