// host_resources.cpp: control groups as files of both versions, and masks of cores.
#include "launcher/host_resources.h"

#include <fstream>
#include <limits>
#include <thread>

#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace phalanx::launcher {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

class HostFiles : public ::testing::Test {
 protected:
  HostFiles()
      : paths_{std::filesystem::path(directory_.path()) / "proc",
               std::filesystem::path(directory_.path()) / "cgroup"} {
    write("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable:   16777216 kB\n");
  }

  void write(const std::filesystem::path& name, const std::string& text) {
    std::filesystem::create_directories(
        (std::filesystem::path(directory_.path()) / name).parent_path());
    std::ofstream(std::filesystem::path(directory_.path()) / name) << text;
  }

  phalanx::testing::TemporaryDirectory directory_;
  HostPaths paths_;
};

TEST_F(HostFiles, WithoutGroupsTheHostsMemoryCounts) {
  EXPECT_EQ(available_memory_bytes(paths_), 16 * kGiB);
  EXPECT_EQ(cpu_quota_cores(paths_), std::numeric_limits<int>::max());
}

TEST_F(HostFiles, TheTightestGroupOnTheWayUpBounds) {
  write("proc/self/cgroup", "0::/slurm/job_7/step_0\n");
  write("cgroup/slurm/job_7/step_0/memory.max", "max\n");
  write("cgroup/slurm/job_7/step_0/memory.current", "1073741824\n");
  write("cgroup/slurm/job_7/memory.max", "4294967296\n");      // 4 GiB
  write("cgroup/slurm/job_7/memory.current", "3221225472\n");  // 3 GiB, of them 2 GiB file cache
  write("cgroup/slurm/job_7/memory.stat", "anon 1\ninactive_file 2147483648\nactive_file 5\n");
  write("cgroup/slurm/memory.max", "8589934592\n");
  write("cgroup/slurm/memory.current", "3221225472\n");
  write("cgroup/slurm/job_7/cpu.max", "250000 100000\n");
  write("cgroup/slurm/cpu.max", "max 100000\n");
  EXPECT_EQ(available_memory_bytes(paths_), 3 * kGiB);
  EXPECT_EQ(cpu_quota_cores(paths_), 3);
}

TEST_F(HostFiles, ContainerThatSeesItsGroupAsTheRoot) {
  write("proc/self/cgroup", "0::/docker/0123abc\n");
  write("cgroup/memory.max", "2147483648\n");
  write("cgroup/memory.current", "3221225472\n");  // above the limit: nothing is left
  EXPECT_EQ(available_memory_bytes(paths_), 0);
}

TEST_F(HostFiles, VersionOne) {
  write("proc/self/cgroup", "9:memory:/job\n4:cpu,cpuacct:/job\n0::/\n");
  write("cgroup/memory/job/memory.limit_in_bytes", "2147483648\n");
  write("cgroup/memory/job/memory.usage_in_bytes", "1610612736\n");
  write("cgroup/memory/job/memory.stat", "inactive_file 7\ntotal_inactive_file 536870912\n");
  write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("cgroup/memory/memory.usage_in_bytes", "1610612736\n");
  write("cgroup/cpu/job/cpu.cfs_quota_us", "150000\n");
  write("cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
  write("cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  write("cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(available_memory_bytes(paths_), kGiB);
  EXPECT_EQ(cpu_quota_cores(paths_), 2);
}

TEST_F(HostFiles, NonsenseInThemBoundsNothing) {
  write("proc/self/cgroup", "no colons\n0:one\n0::/\n:::::\n");
  write("cgroup/memory.max", "lots\n");
  write("cgroup/memory.current", "");
  write("cgroup/cpu.max", "0 0\n");
  EXPECT_EQ(available_memory_bytes(paths_), 16 * kGiB);
  EXPECT_EQ(cpu_quota_cores(paths_), std::numeric_limits<int>::max());
}

TEST(AffinityScope, GivesTheMaskBackAndThreadsKeepTheirs) {
  const cpu_set_t before = affinity();
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  std::thread thread;
  {
    const AffinityScope scope(one);
    const cpu_set_t inside = affinity();
    EXPECT_TRUE(CPU_EQUAL(&inside, &one));
    thread = std::thread([&] {
      const cpu_set_t inherited = affinity();
      EXPECT_TRUE(CPU_EQUAL(&inherited, &one));
    });
  }
  thread.join();
  const cpu_set_t after = affinity();
  EXPECT_TRUE(CPU_EQUAL(&after, &before));
  const cpu_set_t cpuset = cpuset_cores();
  EXPECT_GE(CPU_COUNT(&cpuset), CPU_COUNT(&before));
}

TEST(ListOf, NamesTheProcessorsOfAMask) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  EXPECT_TRUE(list_of(mask).empty());
  for (const int cpu : {0, 7, CPU_SETSIZE - 1}) CPU_SET(cpu, &mask);
  EXPECT_EQ(list_of(mask), (std::vector<int>{0, 7, CPU_SETSIZE - 1}));
}

}  // namespace
}  // namespace phalanx::launcher
