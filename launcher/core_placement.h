// Which processors the threads of each rank of a host get. A pure function of the machine and of
// what the ranks may use of it; called by worker_setup and by llm-bench.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "launcher/machine_topology.h"

namespace phalanx::launcher {

/// What the ranks of one host have.
struct HostRanks {
  /// The processors that each rank may use, in the order of the ranks; none is empty. Ranks with
  /// equal lists share them. A list that differs is what a job scheduler or a user gave that rank,
  /// and it stays within it.
  std::vector<std::vector<int>> allowed;
  /// Cores' worth of time that control groups grant to all of them together.
  int quota_cores = std::numeric_limits<int>::max();
};

struct HostPlacement {
  std::vector<std::vector<int>> cpus;  ///< [rank][thread]: its processor; a rank has at least one
  /// No two threads have the same processor, and the quota grants each a whole one.
  bool fits = false;
  /// Binding each thread to its processor is a gain and no risk, as far as one can know from here.
  bool pins = false;
};

/// Every rank of the host calls this with the same arguments and gets the same answer.
///
/// Threads: `asked` of each rank, or for 0 the physical cores of its share and no more than its
/// share of the quota, at least 1.
///
/// Processors of ranks with equal lists, while there are enough:
/// - no processor twice; no second processor of a core (SMT) while a core is free;
/// - a rank gets cores that are neighbours in hwloc's order. It stays within a package, within a
///   NUMA node, within an L3 cache wherever all ranks can, and ranks spread over these evenly;
/// - where cores of one node differ in speed (hybrids), faster ones first, dealt out by turns so
///   that all ranks get alike. Over several nodes being near counts more.
/// When threads outnumber the processors these are dealt out round and round.
/// Processors that the topology does not know count as cores of their own, after all others.
///
/// pins: a bound thread keeps its caches and the memory of its node, but cannot evade company. So
/// only if `fits`, there is more than one processor, the ranks take every core they may use (else
/// two such jobs on one host would crowd the same cores while others are idle), and
/// - either somebody gave the job a part of the machine, or its ranks parts of their own (a cpuset,
///   Slurm, mpirun --bind-to, taskset),
/// - or what it may use spans several NUMA nodes, where a thread that moves leaves its memory.
HostPlacement place_ranks(const MachineTopology& topology, const HostRanks& host, int asked);

/// One process that has `allowed` to itself: the processor of each of its threads. Cores first, and
/// near each other; round and round when there are more threads.
std::vector<int> place_threads(const MachineTopology& topology, const std::vector<int>& allowed,
                               int num_threads);

}  // namespace phalanx::launcher
