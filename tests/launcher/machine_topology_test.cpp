// The machine as hwloc tells it: made-up machines of every kind, and this one.
#include "launcher/machine_topology.h"

#include <sched.h>

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hwloc.h>

namespace phalanx::launcher {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

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

/// Two packages of two cores with two threads each, numbered as Linux does: first the first threads
/// of all cores. L3 of a package, L2 and L1 of a core.
TEST(Topology, CountsCoresThreadsAndCaches) {
  const auto read = topology_of_synthetic(
      "package:2 [numa(memory=1048576)] l3:1(size=33554432) core:2 l2:1(size=2097152) "
      "l1d:1(size=49152) pu:2(indexes=0,4,1,5,2,6,3,7)");
  ASSERT_TRUE(read.ok()) << read.error().message;
  const MachineTopology& topology = *read;
  EXPECT_EQ(topology.cpus.size(), 8U);
  EXPECT_EQ(topology.num_packages(), 2);
  EXPECT_EQ(topology.num_cores(), 4);
  EXPECT_EQ(topology.threads_per_core(), 2);
  for (int cpu = 0; cpu < 8; ++cpu) {
    const LogicalCpu& found = topology.cpus[static_cast<size_t>(cpu)];
    EXPECT_EQ(found.cpu, cpu);
    EXPECT_EQ(found.package, cpu % 4 / 2);
    EXPECT_EQ(found.node, cpu % 4 / 2);
    EXPECT_EQ(found.whole_core, cpu % 4);
    EXPECT_EQ(found.order, cpu % 4 * 2 + cpu / 4);
    EXPECT_EQ(found.speed, 0);
  }
  ASSERT_EQ(topology.nodes.size(), 2U);
  EXPECT_EQ(topology.nodes[1].memory_bytes, 1 << 20);
  EXPECT_THAT(topology.nodes[1].cpus, ElementsAre(2, 3, 6, 7));
  EXPECT_EQ(topology.caches.size(), 4U + 4U + 2U);
  EXPECT_EQ(topology.cache_bytes(1, 5), 48 << 10);
  EXPECT_EQ(topology.cache_bytes(2, 0), 2 << 20);
  EXPECT_EQ(topology.cache_bytes(3, 7), 32 << 20);
  EXPECT_EQ(topology.cache_bytes(4, 0), 0);
  EXPECT_EQ(topology.num_caches(3, {0, 1}), 1);
  EXPECT_EQ(topology.num_caches(3, {0, 2}), 2);
  EXPECT_EQ(topology.num_caches(1, {0, 4}), 1);
  EXPECT_THAT(topology.nodes_of({0, 4}), ElementsAre(0));
  EXPECT_THAT(topology.nodes_of({6, 1, 99}), ElementsAre(0, 1));
}

TEST(Topology, WithoutCachesThreadsOrNodesItIsPlain) {
  const auto one = topology_of_synthetic("pu:1");
  ASSERT_TRUE(one.ok()) << one.error().message;
  EXPECT_EQ(one->cpus.size(), 1U);
  EXPECT_EQ(one->num_cores(), 1);
  EXPECT_EQ(one->num_packages(), 1);
  EXPECT_EQ(one->threads_per_core(), 1);
  EXPECT_EQ(one->nodes.size(), 1U);
  EXPECT_THAT(one->caches, IsEmpty());

  const auto flat = topology_of_synthetic("core:3 pu:1");
  ASSERT_TRUE(flat.ok()) << flat.error().message;
  EXPECT_EQ(flat->num_cores(), 3);
}

/// `describe` changes a made-up machine before it is written.
template <typename Describe>
std::string xml_of(const std::string& synthetic, Describe&& describe) {
  hwloc_topology_t topology = nullptr;
  EXPECT_EQ(hwloc_topology_init(&topology), 0);
  EXPECT_EQ(hwloc_topology_set_flags(topology, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED), 0);
  EXPECT_EQ(hwloc_topology_set_synthetic(topology, synthetic.c_str()), 0);
  EXPECT_EQ(hwloc_topology_load(topology), 0);
  describe(topology);
  char* text = nullptr;
  int length = 0;
  EXPECT_EQ(hwloc_topology_export_xmlbuffer(topology, &text, &length, 0), 0);
  std::string xml = text;
  hwloc_free_xmlbuffer(topology, text);
  hwloc_topology_destroy(topology);
  return xml;
}

TEST(Topology, FasterCoresAreKnown) {
  const auto topology = topology_of_xml(xml_of("core:4 pu:1", [](hwloc_topology_t made) {
    hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
    hwloc_bitmap_set_range(cpus, 0, 1);
    EXPECT_EQ(hwloc_cpukinds_register(made, cpus, 20, 0, nullptr, 0), 0);
    hwloc_bitmap_zero(cpus);
    hwloc_bitmap_set_range(cpus, 2, 3);
    EXPECT_EQ(hwloc_cpukinds_register(made, cpus, 10, 0, nullptr, 0), 0);
    hwloc_bitmap_free(cpus);
  }));
  ASSERT_TRUE(topology.ok()) << topology.error().message;
  ASSERT_EQ(topology->cpus.size(), 4U);
  EXPECT_GT(topology->cpus[0].speed, topology->cpus[2].speed);
  EXPECT_EQ(topology->cpus[0].speed, topology->cpus[1].speed);
  EXPECT_EQ(topology->cpus[2].speed, topology->cpus[3].speed);
}

TEST(Topology, WhatACpusetForbidsIsStillOfTheMachine) {
  const auto topology = topology_of_xml(xml_of("numa:2 core:4 pu:1", [](hwloc_topology_t made) {
    hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
    hwloc_bitmap_set_range(cpus, 0, 2);
    EXPECT_EQ(hwloc_topology_allow(made, cpus, nullptr, HWLOC_ALLOW_FLAG_CUSTOM), 0);
    hwloc_bitmap_free(cpus);
  }));
  ASSERT_TRUE(topology.ok()) << topology.error().message;
  EXPECT_EQ(topology->cpus.size(), 8U);
  EXPECT_EQ(topology->nodes.size(), 2U);
}

TEST(Topology, NonsenseIsRefused) {
  for (const char* wrong : {"", "core", "core:0 pu:1", "pu:-1", "socks:2 pu:2", "core:2 pu:x"}) {
    const auto topology = topology_of_synthetic(wrong);
    ASSERT_FALSE(topology.ok()) << wrong;
    EXPECT_THAT(topology.error().message, ::testing::HasSubstr(wrong));
  }
  for (const char* wrong : {"", "<", "not xml", "<topology></topology>"})
    EXPECT_FALSE(topology_of_xml(wrong).ok()) << wrong;
}

TEST(Topology, OfThisMachineHasWhatThisThreadMayUse) {
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
  cpu_set_t mask;
  ASSERT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    EXPECT_TRUE(std::any_of(topology.cpus.begin(), topology.cpus.end(),
                            [&](const LogicalCpu& known) { return known.cpu == cpu; }))
        << cpu;
  }
}

}  // namespace
}  // namespace phalanx::launcher
