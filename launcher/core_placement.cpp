// Cuts a host's cores into ranks' shares. Called by worker_setup and llm-bench.
#include "launcher/core_placement.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <utility>

#include "runtime/base/check.h"

namespace phalanx::launcher {
namespace {

/// The levels that a rank better does not straddle, widest first.
constexpr size_t kNumLevels = 3;  // package, NUMA node, L3
constexpr size_t kNodeLevel = 1;

struct Core {
  int order = 0;
  int speed = 0;
  std::array<int, kNumLevels> within{};  // which package, node and L3
  std::vector<int> cpus;                 // that are allowed, in hwloc's order
};

using Shares = std::vector<std::vector<int>>;  // of each rank, its threads' processors

/// The allowed part of the machine, in hwloc's order.
std::vector<Core> find_cores(const MachineTopology& topology, const std::vector<int>& allowed) {
  std::map<int, LogicalCpu> known;
  for (const LogicalCpu& cpu : topology.cpus) known.emplace(cpu.cpu, cpu);
  std::map<int, int> l3_of;
  for (size_t i = 0; i < topology.caches.size(); ++i) {
    if (topology.caches[i].level != 3) continue;
    for (const int cpu : topology.caches[i].cpus) l3_of.emplace(cpu, static_cast<int>(i));
  }
  std::vector<LogicalCpu> cpus;
  const auto num_known = static_cast<int>(topology.cpus.size());
  for (const int cpu : std::set<int>(allowed.begin(), allowed.end())) {
    const auto found = known.find(cpu);
    if (found != known.end()) {
      cpus.push_back(found->second);
      continue;
    }
    LogicalCpu unknown;
    unknown.cpu = cpu;
    unknown.order = unknown.whole_core = num_known + static_cast<int>(cpus.size());
    cpus.push_back(unknown);
  }
  std::sort(cpus.begin(), cpus.end(),
            [](const LogicalCpu& a, const LogicalCpu& b) { return a.order < b.order; });
  std::vector<Core> cores;
  int last = -1;
  for (const LogicalCpu& cpu : cpus) {
    if (cores.empty() || cpu.whole_core != last) {
      const auto l3 = l3_of.find(cpu.cpu);
      cores.push_back(
          {cpu.order, cpu.speed, {cpu.package, cpu.node, l3 == l3_of.end() ? -1 : l3->second}, {}});
    }
    last = cpu.whole_core;
    cores.back().cpus.push_back(cpu.cpu);
  }
  return cores;
}

/// The first processor of each core, faster cores first, then the second ones, ...
std::vector<int> cores_first(std::vector<Core> cores) {
  std::stable_sort(cores.begin(), cores.end(),
                   [](const Core& a, const Core& b) { return a.speed > b.speed; });
  std::vector<int> cpus;
  bool finds = true;
  for (size_t sibling = 0; finds; ++sibling) {
    finds = false;
    for (const Core& core : cores) {
      if (sibling >= core.cpus.size()) continue;
      cpus.push_back(core.cpus[sibling]);
      finds = true;
    }
  }
  return cpus;
}

std::span<const Core> part(std::span<const Core> whole, size_t index, size_t num_parts) {
  const size_t begin = whole.size() * index / num_parts;
  const size_t end = whole.size() * (index + 1) / num_parts;
  return whole.subspan(begin, end - begin);
}

/// Runs of cores within the same `level`.
std::vector<std::span<const Core>> split_at(std::span<const Core> cores, size_t level) {
  std::vector<std::span<const Core>> runs;
  for (size_t begin = 0; begin < cores.size();) {
    size_t end = begin + 1;
    while (end < cores.size() && cores[end].within[level] == cores[begin].within[level]) ++end;
    runs.push_back(cores.subspan(begin, end - begin));
    begin = end;
  }
  return runs;
}

/// How many ranks each run takes, so that none straddles two and runs are used evenly; empty when
/// that cannot be.
std::vector<size_t> ranks_of_runs(const std::vector<std::span<const Core>>& runs, size_t num_ranks,
                                  size_t num_threads) {
  std::vector<size_t> counts(runs.size(), 0);
  for (size_t rank = 0; rank < num_ranks; ++rank) {
    size_t best = runs.size();
    for (size_t i = 0; i < runs.size(); ++i) {
      if ((counts[i] + 1) * num_threads > runs[i].size()) continue;
      // Fewer ranks a core wins: (counts[i] + 1) / size(i) < (counts[best] + 1) / size(best).
      if (best == runs.size() ||
          (counts[i] + 1) * runs[best].size() < (counts[best] + 1) * runs[i].size())
        best = i;
    }
    if (best == runs.size()) return {};
    ++counts[best];
  }
  return counts;
}

/// A core for each thread: num_ranks * num_threads <= cores.size(). Appends the ranks' shares.
void share_cores(std::span<const Core> cores, size_t num_ranks, size_t num_threads, size_t level,
                 Shares& shares) {
  if (num_ranks == 0) return;
  if (level < kNumLevels) {
    const auto runs = split_at(cores, level);
    const auto counts = ranks_of_runs(runs, num_ranks, num_threads);
    for (size_t i = 0; i < counts.size(); ++i)
      share_cores(runs[i], counts[i], num_threads, level + 1, shares);
    if (!counts.empty()) return;
  }
  for (size_t rank = 0; rank < num_ranks; ++rank) {
    std::vector<int> cpus;
    for (const Core& core : part(cores, rank, num_ranks).first(num_threads))
      cpus.push_back(core.cpus.front());
    shares.push_back(std::move(cpus));
  }
}

/// More threads than cores, but a processor for each: whole cores to a rank where these have
/// enough, else neighbouring processors.
Shares share_siblings(std::span<const Core> cores, size_t num_ranks, size_t num_threads) {
  Shares shares;
  for (size_t rank = 0; rank < num_ranks; ++rank) {
    const auto own = part(cores, rank, num_ranks);
    shares.push_back(cores_first({own.begin(), own.end()}));
    if (shares.back().size() < num_threads) break;
    shares.back().resize(num_threads);
  }
  if (shares.back().size() == num_threads) return shares;
  // A cpuset left some cores fewer processors than others: the ones to use, each core's first
  // before any second, then cut in hwloc's order.
  std::vector<int> used = cores_first({cores.begin(), cores.end()});
  used.resize(num_ranks * num_threads);
  const std::set<int> is_used(used.begin(), used.end());
  shares.assign(1, {});
  for (const Core& core : cores) {
    for (const int cpu : core.cpus) {
      if (!is_used.contains(cpu)) continue;
      if (shares.back().size() == num_threads) shares.emplace_back();
      shares.back().push_back(cpu);
    }
  }
  return shares;
}

Shares share(const std::vector<Core>& cores, size_t num_ranks, size_t num_threads) {
  const std::vector<int> pool = cores_first(cores);
  const size_t wanted = num_ranks * num_threads;
  const auto is_same = [&](auto&& property) {
    return std::all_of(cores.begin(), cores.end(),
                       [&](const Core& core) { return property(core) == property(cores.front()); });
  };
  const bool is_hybrid = !is_same([](const Core& core) { return core.speed; }) &&
                         is_same([](const Core& core) { return core.within[kNodeLevel]; });
  Shares shares;
  if (wanted <= pool.size() && !is_hybrid) {
    if (wanted > cores.size()) return share_siblings(cores, num_ranks, num_threads);
    share_cores(cores, num_ranks, num_threads, 0, shares);
    return shares;
  }
  // By turns: in one round each rank gets its i-th.
  const bool deals = wanted <= pool.size();
  for (size_t rank = 0; rank < num_ranks; ++rank) {
    std::vector<int> cpus;
    for (size_t i = 0; i < num_threads; ++i) {
      const size_t place = deals ? i * num_ranks + rank : rank * num_threads + i;
      cpus.push_back(pool[place % pool.size()]);
    }
    shares.push_back(std::move(cpus));
  }
  return shares;
}

}  // namespace

HostPlacement place_ranks(const MachineTopology& topology, const HostRanks& host, int asked) {
  PHALANX_CHECK(!host.allowed.empty(), "a host without ranks");
  PHALANX_CHECK_GE(asked, 0, "threads of a rank");
  const auto num_host_ranks = static_cast<int>(host.allowed.size());
  std::map<std::vector<int>, std::vector<size_t>> groups;  // who shares which processors
  for (size_t rank = 0; rank < host.allowed.size(); ++rank) {
    PHALANX_CHECK(!host.allowed[rank].empty(), "a rank without processors");
    groups[host.allowed[rank]].push_back(rank);
  }

  HostPlacement placement;
  placement.cpus.resize(host.allowed.size());
  bool takes_every_core = true;
  std::set<int> usable;
  std::set<int> used;
  size_t num_threads = 0;
  for (const auto& [allowed, ranks] : groups) {
    const std::vector<Core> cores = find_cores(topology, allowed);
    const int share_of_cores = static_cast<int>(cores.size() / ranks.size());
    const int threads =
        asked > 0 ? asked
                  : std::max(1, std::min(share_of_cores, host.quota_cores / num_host_ranks));
    takes_every_core = takes_every_core && threads >= share_of_cores;
    Shares shares = share(cores, ranks.size(), static_cast<size_t>(threads));
    for (size_t i = 0; i < ranks.size(); ++i) {
      used.insert(shares[i].begin(), shares[i].end());
      num_threads += shares[i].size();
      placement.cpus[ranks[i]] = std::move(shares[i]);
    }
    usable.insert(allowed.begin(), allowed.end());
  }
  placement.fits = num_threads == used.size() &&
                   num_threads <= static_cast<size_t>(std::max(host.quota_cores, 1));
  const bool is_given = usable.size() < topology.cpus.size() || groups.size() > 1;
  const bool has_far_memory = topology.nodes_of({usable.begin(), usable.end()}).size() > 1;
  placement.pins =
      placement.fits && usable.size() > 1 && takes_every_core && (is_given || has_far_memory);
  return placement;
}

std::vector<int> place_threads(const MachineTopology& topology, const std::vector<int>& allowed,
                               int num_threads) {
  return place_ranks(topology, {{allowed}}, num_threads).cpus.front();
}

}  // namespace phalanx::launcher
