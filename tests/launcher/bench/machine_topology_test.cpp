// The machine as sysfs tells it: made-up trees of every kind, broken files, and this machine.
#include "launcher/bench/machine_topology.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace phalanx::bench {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// A made-up /sys.
class FakeSysfs {
 public:
  void write(const std::string& path, const std::string& text) {
    const fs::path file = fs::path(directory_.path()) / "devices/system" / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  void add_cpu(int cpu, int core, int package) {
    const std::string folder = "cpu/cpu" + std::to_string(cpu) + "/topology/";
    write(folder + "core_id", std::to_string(core));
    write(folder + "physical_package_id", std::to_string(package));
  }
  void add_cache(int cpu, int index, int level, const std::string& type, const std::string& size,
                 const std::string& sharers) {
    const std::string folder =
        "cpu/cpu" + std::to_string(cpu) + "/cache/index" + std::to_string(index) + "/";
    write(folder + "level", std::to_string(level));
    write(folder + "type", type);
    write(folder + "size", size);
    write(folder + "shared_cpu_list", sharers);
  }
  MachineTopology read() const { return read_topology(directory_.path()); }

 private:
  testing::TemporaryDirectory directory_;
};

TEST(CpuList, ReadsTheKernelsFormat) {
  EXPECT_THAT(parse_cpu_list("0"), ElementsAre(0));
  EXPECT_THAT(parse_cpu_list("0-3,8,10-11"), ElementsAre(0, 1, 2, 3, 8, 10, 11));
  EXPECT_THAT(parse_cpu_list("5\n"), ElementsAre(5));
  for (const char* wrong :
       {"", "-", "a", "1-", "3-1", "1,,2", "1;2", "-1", "0-99999999999", "99999999999999999999"})
    EXPECT_THAT(parse_cpu_list(wrong), IsEmpty()) << wrong;
}

TEST(CpuList, FormatsWhatItReads) {
  for (const char* text : {"", "0", "0-1", "0-3,8,10-11", "1,3,5"})
    EXPECT_EQ(format_cpu_list(parse_cpu_list(text)), text);
}

/// Two packages of two cores with two threads each; L3 of a package, L2 and L1 of a core.
TEST(Topology, CountsCoresThreadsAndCaches) {
  FakeSysfs sysfs;
  sysfs.write("cpu/online", "0-7");
  for (int cpu = 0; cpu < 8; ++cpu) {
    const int package = cpu / 2 % 2;  // the numbering of cores starts again in each package
    const int core = cpu % 2;
    sysfs.add_cpu(cpu, core, package);
    const std::string sibling = std::to_string(cpu % 4) + "," + std::to_string(cpu % 4 + 4);
    sysfs.add_cache(cpu, 0, 1, "Data", "48K", sibling);
    sysfs.add_cache(cpu, 1, 1, "Instruction", "32K", sibling);
    sysfs.add_cache(cpu, 2, 2, "Unified", "2048K", sibling);
    sysfs.add_cache(cpu, 3, 3, "Unified", "32M", package == 0 ? "0-1,4-5" : "2-3,6-7");
  }
  sysfs.write("node/online", "0-1");
  sysfs.write("node/node0/cpulist", "0-1,4-5");
  sysfs.write("node/node1/cpulist", "2-3,6-7");
  sysfs.write("node/node1/meminfo", "Node 1 MemTotal:       1024 kB");

  const MachineTopology topology = sysfs.read();
  EXPECT_EQ(topology.cpus.size(), 8U);
  EXPECT_EQ(topology.num_packages(), 2);
  EXPECT_EQ(topology.num_cores(), 4);
  EXPECT_EQ(topology.threads_per_core(), 2);
  EXPECT_EQ(topology.cpus[6].node, 1);
  EXPECT_EQ(topology.cpus[4].node, 0);
  EXPECT_EQ(topology.nodes[1].memory_bytes, 1 << 20);
  EXPECT_EQ(topology.caches.size(), 4U + 4U + 2U);
  EXPECT_EQ(topology.cache_bytes(1, 5), 48 << 10);
  EXPECT_EQ(topology.cache_bytes(2, 0), 2 << 20);
  EXPECT_EQ(topology.cache_bytes(3, 7), 32 << 20);
  EXPECT_EQ(topology.cache_bytes(4, 0), 0);
  EXPECT_EQ(topology.num_caches(3, {0, 1}), 1);
  EXPECT_EQ(topology.num_caches(3, {0, 2}), 2);
  EXPECT_EQ(topology.num_caches(1, {0, 4}), 1);
  const auto json = topology_json(topology);
  EXPECT_EQ(json["cores"], 4);
  EXPECT_EQ(json["caches"].back()["cpus"], "2-3,6-7");
}

TEST(Topology, OfflineProcessorsAreLeftOut) {
  FakeSysfs sysfs;
  sysfs.write("cpu/online", "0,2");
  for (int cpu = 0; cpu < 3; ++cpu) sysfs.add_cpu(cpu, cpu, 0);
  EXPECT_EQ(sysfs.read().num_cores(), 2);
}

TEST(Topology, NothingThereIsOneProcessor) {
  const MachineTopology topology = FakeSysfs().read();
  ASSERT_EQ(topology.cpus.size(), 1U);
  EXPECT_EQ(topology.num_cores(), 1);
  EXPECT_EQ(topology.threads_per_core(), 1);
  EXPECT_EQ(topology.nodes.size(), 1U);
  EXPECT_THAT(topology.caches, IsEmpty());
}

TEST(Topology, BrokenFilesAreLeftOut) {
  FakeSysfs sysfs;
  sysfs.write("cpu/online", "0-1");
  sysfs.write("cpu/cpu0/topology/core_id", "many");
  sysfs.write("cpu/cpu1/topology/core_id", "-1");
  sysfs.add_cache(0, 0, 1, "Data", "32Q", "0");
  sysfs.add_cache(0, 1, 2, "Unified", "", "0");
  sysfs.add_cache(0, 2, 99, "Unified", "1M", "0");
  sysfs.add_cache(0, 3, 3, "Unified", "99999999999999G", "0");
  sysfs.add_cache(1, 0, 1, "Data", "32K", "garbage");
  const MachineTopology topology = sysfs.read();
  EXPECT_EQ(topology.num_cores(), 2);  // a core that has no number is one of its own
  ASSERT_EQ(topology.caches.size(), 1U);
  EXPECT_THAT(topology.caches[0].cpus, ElementsAre(1));
}

TEST(Topology, OfThisMachineIsConsistent) {
  const MachineTopology topology = read_topology();
  ASSERT_FALSE(topology.cpus.empty());
  EXPECT_GE(topology.num_cores(), 1);
  EXPECT_LE(topology.num_cores(), static_cast<int>(topology.cpus.size()));
  EXPECT_LE(topology.num_cores() * topology.threads_per_core(),
            2 * static_cast<int>(topology.cpus.size()));
  for (const CpuCache& cache : topology.caches) {
    EXPECT_GT(cache.bytes, 0);
    EXPECT_FALSE(cache.cpus.empty());
  }
}

}  // namespace
}  // namespace phalanx::bench
