// Who runs where: cases one can check by hand, and what must hold on any machine.
#include "launcher/core_placement.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx::launcher {
namespace {

using ::testing::ElementsAre;

MachineTopology machine(const std::string& synthetic) {
  auto topology = topology_of_synthetic(synthetic);
  EXPECT_TRUE(topology.ok()) << synthetic;
  return topology.ok() ? *topology : MachineTopology();
}

std::vector<int> all_cpus(const MachineTopology& topology) {
  std::vector<int> cpus;
  for (const LogicalCpu& cpu : topology.cpus) cpus.push_back(cpu.cpu);
  return cpus;
}

/// `num_ranks` ranks that may all use `allowed`, "" being everything.
HostRanks sharing(const MachineTopology& topology, size_t num_ranks,
                  const std::string& allowed = "") {
  HostRanks host;
  host.allowed.assign(num_ranks, allowed.empty() ? all_cpus(topology) : parse_cpu_list(allowed));
  return host;
}

/// "0-7 / 8-15": each rank's processors, ascending.
std::string text_of(const HostPlacement& placement) {
  std::string text;
  for (std::vector<int> cpus : placement.cpus) {
    std::sort(cpus.begin(), cpus.end());
    text += (text.empty() ? "" : " / ") + format_cpu_list(cpus);
  }
  return text;
}

/// Two packages of two NUMA nodes of eight cores in two L3 of four; two threads a core, the second
/// ones numbered 32 to 63, as Linux does.
std::string two_packages() {
  std::string indexes;
  for (int core = 0; core < 32; ++core)
    indexes += (core > 0 ? "," : "") + std::to_string(core) + "," + std::to_string(core + 32);
  return "package:2 numa:2 l3:2 core:4 pu:2(indexes=" + indexes + ")";
}

struct Case {
  const char* name;
  std::string machine;
  size_t num_ranks;
  std::string allowed;
  int quota;  // 0: none
  int asked;
  std::string expected;
  bool fits;
  bool pins;
};

class PlaceRanks : public ::testing::TestWithParam<Case> {};

TEST_P(PlaceRanks, AsExpected) {
  const Case& given = GetParam();
  const MachineTopology topology = machine(given.machine);
  HostRanks host = sharing(topology, given.num_ranks, given.allowed);
  if (given.quota > 0) host.quota_cores = given.quota;
  const HostPlacement placement = place_ranks(topology, host, given.asked);
  EXPECT_EQ(text_of(placement), given.expected);
  EXPECT_EQ(placement.fits, given.fits);
  EXPECT_EQ(placement.pins, given.pins);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, PlaceRanks,
    ::testing::Values(
        // All of a big machine: physical cores only, and each rank in its package, node, L3.
        Case{"alone", two_packages(), 1, "", 0, 0, "0-31", true, true},
        Case{"packages", two_packages(), 2, "", 0, 0, "0-15 / 16-31", true, true},
        Case{"nodes", two_packages(), 4, "", 0, 0, "0-7 / 8-15 / 16-23 / 24-31", true, true},
        Case{"l3s", two_packages(), 8, "", 0, 0,
             "0-3 / 4-7 / 8-11 / 12-15 / 16-19 / 20-23 / 24-27 / 28-31", true, true},
        // Three ranks cannot all have a node's worth; a third of the cores each.
        Case{"thirds", two_packages(), 3, "", 0, 0, "0-9 / 10-19 / 21-30", true, true},
        // Three threads fit in an L3, so no rank straddles one; nodes and packages are used evenly.
        Case{"threeRanksOfThree", two_packages(), 3, "", 0, 3, "0-2 / 8-10 / 16-18", true, false},
        Case{"twoJobsWorth", two_packages(), 1, "", 0, 16, "0-15", true, false},
        // More threads than cores: second threads, of the rank's own cores.
        Case{"smt", two_packages(), 2, "", 0, 32, "0-15,32-47 / 16-31,48-63", true, true},
        Case{"someSmt", "core:4 pu:2", 1, "", 0, 6, "0-4,6", true, false},
        Case{"oversubscribed", "core:2 pu:1", 3, "", 0, 1, "0 / 1 / 0", false, false},
        // A part of the machine.
        Case{"cpuset", two_packages(), 2, "4-7,12-15,36-39", 0, 0, "4-7 / 12-15", true, true},
        Case{"cpusetPartly", two_packages(), 1, "0-7", 0, 4, "0-3", true, false},
        Case{"oneCpu", "core:4 pu:1", 1, "2", 0, 0, "2", true, false},
        Case{"siblingsOnly", "core:2 pu:2", 2, "1,3", 0, 0, "1 / 3", true, true},
        // A quota is a share of time, not of cores.
        Case{"quota", two_packages(), 2, "", 5, 0, "0-1 / 16-17", true, false},
        Case{"quotaExceeded", "core:4 pu:1", 1, "", 2, 4, "0-3", false, false},
        // The plain machines: nothing to gain, all to lose.
        Case{"laptop", "l3:1 core:4 pu:2", 1, "", 0, 0, "0,2,4,6", true, false},
        Case{"virtual", "core:2 pu:1", 2, "", 0, 0, "0 / 1", true, false},
        Case{"single", "pu:1", 1, "", 0, 0, "0", true, false},
        Case{"moreRanksThanCores", "core:2 pu:2", 4, "", 0, 0, "0 / 1 / 2 / 3", true, false}),
    [](const auto& test) { return test.param.name; });

TEST(PlaceRanks, BindingsOfTheRanksAreObeyed) {
  const MachineTopology topology = machine(two_packages());
  HostRanks host;  // mpirun --bind-to numa with five ranks on the first two nodes, one elsewhere
  for (const char* cpus : {"0-7,32-39", "8-15,40-47", "0-7,32-39", "8-15,40-47", "16-17"})
    host.allowed.push_back(parse_cpu_list(cpus));
  const HostPlacement placement = place_ranks(topology, host, 0);
  EXPECT_EQ(text_of(placement), "0-3 / 8-11 / 4-7 / 12-15 / 16-17");
  EXPECT_TRUE(placement.fits);
  EXPECT_TRUE(placement.pins);
}

TEST(PlaceRanks, RanksWithCoresOfTheirOwnArePinned) {
  const MachineTopology topology = machine("core:4 pu:1");  // all of it, but in two parts
  HostRanks host;
  host.allowed = {{0, 1}, {2, 3}};
  EXPECT_TRUE(place_ranks(topology, host, 0).pins);
  EXPECT_FALSE(place_ranks(topology, host, 1).pins);
}

TEST(PlaceRanks, OverlappingBindingsAreNotPinned) {
  const MachineTopology topology = machine("core:4 pu:1");
  HostRanks host;
  host.allowed = {{0, 1}, {1, 2}};
  const HostPlacement placement = place_ranks(topology, host, 0);
  EXPECT_FALSE(placement.fits);
  EXPECT_FALSE(placement.pins);
}

TEST(PlaceRanks, UnknownProcessorsAreCoresOfTheirOwn) {
  const MachineTopology topology = machine("core:2 pu:1");
  HostRanks host;
  host.allowed = {{1, 70, 71}, {1, 70, 71}, {1, 70, 71}};
  EXPECT_EQ(text_of(place_ranks(topology, host, 0)), "1 / 70 / 71");
  EXPECT_EQ(text_of(place_ranks(MachineTopology(), host, 0)), "1 / 70 / 71");
}

TEST(PlaceRanks, RanksOfAHybridGetFastAndSlowCoresAlike) {
  MachineTopology topology = machine("core:8 pu:1");  // four fast ones, the last
  for (LogicalCpu& cpu : topology.cpus) cpu.speed = cpu.cpu >= 4 ? 1 : 0;
  const HostPlacement both = place_ranks(topology, sharing(topology, 2), 0);
  EXPECT_THAT(both.cpus[0], ElementsAre(4, 6, 0, 2));
  EXPECT_THAT(both.cpus[1], ElementsAre(5, 7, 1, 3));
  EXPECT_THAT(place_threads(topology, all_cpus(topology), 3), ElementsAre(4, 5, 6));
}

TEST(PlaceRanks, OverSeveralNodesNearnessCountsMoreThanSpeed) {
  MachineTopology topology = machine("numa:2 core:4 pu:1");
  for (LogicalCpu& cpu : topology.cpus) cpu.speed = cpu.cpu % 2;
  EXPECT_EQ(text_of(place_ranks(topology, sharing(topology, 2), 0)), "0-3 / 4-7");
}

TEST(PlaceRanks, NobodyToPlaceIsAnInternalError) {
  const MachineTopology topology = machine("pu:1");
  EXPECT_THROW(place_ranks(topology, {}, 1), InternalError);
  HostRanks nothing_allowed;
  nothing_allowed.allowed = {{}};
  EXPECT_THROW(place_ranks(topology, nothing_allowed, 1), InternalError);
  EXPECT_THROW(place_ranks(topology, sharing(topology, 1), -1), InternalError);
}

TEST(PlaceThreads, CoresFirstThenSiblingsThenRoundAndRound) {
  const MachineTopology topology = machine("core:2 pu:2");
  EXPECT_THAT(place_threads(topology, {0, 1, 2, 3}, 2), ElementsAre(0, 2));
  EXPECT_THAT(place_threads(topology, {0, 1, 2, 3}, 4), ElementsAre(0, 2, 1, 3));
  EXPECT_THAT(place_threads(topology, {0, 1, 2, 3}, 6), ElementsAre(0, 2, 1, 3, 0, 2));
  EXPECT_THAT(place_threads(topology, {1, 2}, 2), ElementsAre(1, 2));
}

/// A random machine of random shape, with processors numbered at random; some are forbidden.
struct RandomHost {
  MachineTopology topology;
  HostRanks host;
  std::string text;
};

RandomHost random_host(std::mt19937& random) {
  const auto pick = [&](int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random);
  };
  const int packages = pick(1, 2), nodes = pick(1, 3), l3s = pick(1, 2), cores = pick(1, 5),
            siblings = pick(1, 3);
  const int count = packages * nodes * l3s * cores * siblings;
  std::vector<int> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  if (pick(0, 1) == 1) std::shuffle(numbers.begin(), numbers.end(), random);
  std::string indexes;
  for (const int number : numbers) indexes += (indexes.empty() ? "" : ",") + std::to_string(number);
  RandomHost made;
  made.text = "package:" + std::to_string(packages) + " numa:" + std::to_string(nodes) +
              " l3:" + std::to_string(l3s) + " core:" + std::to_string(cores) +
              " pu:" + std::to_string(siblings) + "(indexes=" + indexes + ")";
  made.topology = machine(made.text);
  if (pick(0, 3) == 0) {
    for (LogicalCpu& cpu : made.topology.cpus) cpu.speed = cpu.whole_core % 2;
  }
  std::vector<int> allowed;
  const int kept = pick(0, 2) == 0 ? 60 : 100;  // percent
  for (int cpu = 0; cpu < count; ++cpu) {
    if (pick(1, 100) <= kept) allowed.push_back(cpu);
  }
  if (allowed.empty()) allowed.push_back(0);
  made.host.allowed.assign(static_cast<size_t>(pick(1, 6)), allowed);
  return made;
}

TEST(PlaceRanks, PropertiesOfRandomMachines) {
  std::mt19937 random(20);
  for (int trial = 0; trial < 1500; ++trial) {
    const RandomHost made = random_host(random);
    const std::vector<int>& allowed = made.host.allowed[0];
    const auto num_ranks = static_cast<int>(made.host.allowed.size());
    const int asked = trial % 3 == 0 ? 0 : std::uniform_int_distribution<int>(1, 9)(random);
    const HostPlacement placement = place_ranks(made.topology, made.host, asked);
    SCOPED_TRACE(made.text + " allowed " + format_cpu_list(allowed) + " ranks " +
                 std::to_string(num_ranks) + " asked " + std::to_string(asked) + ": " +
                 text_of(placement));
    std::map<int, const LogicalCpu*> known;
    for (const LogicalCpu& cpu : made.topology.cpus) known[cpu.cpu] = &cpu;
    std::map<int, int> core_sizes;  // allowed processors of each allowed core
    for (const int cpu : allowed) ++core_sizes[known[cpu]->whole_core];
    const auto num_cores = static_cast<int>(core_sizes.size());

    // Everyone has the threads that were asked for, on allowed processors.
    ASSERT_EQ(placement.cpus.size(), made.host.allowed.size());
    const int threads = asked > 0 ? asked : std::max(1, num_cores / num_ranks);
    std::multiset<int> used;
    std::multiset<int> used_cores;
    for (const auto& cpus : placement.cpus) {
      ASSERT_EQ(static_cast<int>(cpus.size()), threads);
      for (const int cpu : cpus) {
        ASSERT_TRUE(std::binary_search(allowed.begin(), allowed.end(), cpu)) << cpu;
        used.insert(cpu);
        used_cores.insert(known[cpu]->whole_core);
      }
    }

    // No processor twice while there are enough, evenly otherwise.
    const int wanted = threads * num_ranks;
    const bool fits = wanted <= static_cast<int>(allowed.size());
    ASSERT_EQ(placement.fits, fits);
    const auto most = static_cast<int>((used.size() + allowed.size() - 1) / allowed.size());
    for (const int cpu : used) ASSERT_LE(static_cast<int>(used.count(cpu)), most) << cpu;
    // No second processor of a core while a core is free.
    const std::set<int> distinct_cores(used_cores.begin(), used_cores.end());
    ASSERT_EQ(static_cast<int>(distinct_cores.size()), std::min(wanted, num_cores));
    // The automatic choice leaves no core to nobody but what does not divide.
    if (asked == 0 && num_cores >= num_ranks) {
      ASSERT_EQ(wanted, num_cores - num_cores % num_ranks);
    }

    // A rank within one package, node or L3, wherever all ranks find room so.
    const bool is_alike = std::all_of(made.topology.cpus.begin(), made.topology.cpus.end(),
                                      [](const LogicalCpu& cpu) { return cpu.speed == 0; });
    if (wanted <= num_cores && is_alike) {
      const auto l3_of = [&](int cpu) {
        for (size_t i = 0; i < made.topology.caches.size(); ++i) {
          const CpuCache& cache = made.topology.caches[i];
          if (cache.level == 3 && std::binary_search(cache.cpus.begin(), cache.cpus.end(), cpu))
            return static_cast<int>(i);
        }
        return -1;
      };
      const std::vector<std::function<int(int)>> levels = {
          [&](int cpu) { return known[cpu]->package; }, [&](int cpu) { return known[cpu]->node; },
          l3_of};
      for (const auto& place_of : levels) {
        std::map<int, std::set<int>> cores_of;
        for (const int cpu : allowed) cores_of[place_of(cpu)].insert(known[cpu]->whole_core);
        int room = 0;
        for (const auto& [place, cores] : cores_of)
          room += static_cast<int>(cores.size()) / threads;
        if (room < num_ranks) break;
        for (const auto& cpus : placement.cpus) {
          std::set<int> places;
          for (const int cpu : cpus) places.insert(place_of(cpu));
          ASSERT_EQ(places.size(), 1U);
        }
      }
    }

    if (placement.pins) {
      ASSERT_TRUE(fits);
      ASSERT_GE(threads, num_cores / num_ranks);
    }
    const HostPlacement again = place_ranks(made.topology, made.host, asked);
    ASSERT_EQ(again.cpus, placement.cpus);
  }
}

}  // namespace
}  // namespace phalanx::launcher
