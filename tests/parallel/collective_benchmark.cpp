// Times the group's verbs beside Open MPI's own, in the same run. Started by hand under mpirun:
// scripts/mpirun -np 2 collective_benchmark [REPETITIONS].
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#include <mpi.h>

#include "parallel/mpi_session.h"

namespace {

using namespace phalanx::parallel;
using Clock = std::chrono::steady_clock;

/// Median time of one call in microseconds.
double median_us(int repetitions, const std::function<void()>& call) {
  for (int i = 0; i < repetitions / 10 + 5; ++i) call();
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = Clock::now();
    call();
    times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + repetitions / 2, times.end());
  return times[static_cast<size_t>(repetitions / 2)];
}

}  // namespace

int main(int argc, char** argv) {
  MpiSession session(&argc, &argv);
  const int repetitions = argc > 1 ? std::atoi(argv[1]) : 1000;
  std::vector<int> ranks(static_cast<size_t>(session.world_size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  CommunicatorOptions options;
  options.spin = session.local_size() <= static_cast<int>(std::thread::hardware_concurrency());
  const auto chosen = session.make_communicator(ranks, options, nullptr);
  options.spin = false;
  const auto sleeping = session.make_communicator(ranks, options, nullptr);
  options.spin = true;
  options.force_mpi = true;
  const auto by_mpi = session.make_communicator(ranks, options, nullptr);
  const bool prints = session.rank() == 0;
  if (prints) {
    std::printf("%d ranks, transport %s, %u cores; median us of %d\n", session.world_size(),
                chosen->transport().c_str(), std::thread::hardware_concurrency(), repetitions);
    std::printf("%-12s %10s %10s %14s %14s\n", "all-reduce", "ours", "no spin", "ours over MPI",
                "MPI_Allreduce");
  }
  for (size_t bytes : {64UL, 1024UL, 4096UL, 16384UL, 65536UL, 262144UL, 1048576UL, 4194304UL}) {
    std::vector<float> data(bytes / sizeof(float), 1e-30F);
    const int count = static_cast<int>(data.size());
    const int rounds = bytes > 100'000 ? std::max(20, repetitions / 5) : repetitions;
    const double ours = median_us(rounds, [&] { chosen->all_reduce_sum(data); });
    const double asleep = median_us(rounds, [&] { sleeping->all_reduce_sum(data); });
    const double over_mpi = median_us(rounds, [&] { by_mpi->all_reduce_sum(data); });
    const double theirs = median_us(rounds, [&] {
      MPI_Allreduce(MPI_IN_PLACE, data.data(), count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    });
    if (prints)
      std::printf("%-12zu %10.1f %10.1f %14.1f %14.1f\n", bytes, ours, asleep, over_mpi, theirs);
  }
  if (prints) std::printf("%-12s %10s %10s\n", "round trip", "ours", "no spin");
  for (size_t bytes : {64UL, 4096UL, 65536UL, 1048576UL}) {
    std::vector<std::byte> data(bytes);
    const auto round_trip = [&](Communicator& group) {
      return median_us(std::max(20, repetitions / 2), [&] {
        if (group.rank() == 0) {
          group.send(data, 1);
          group.recv(data, 1);
        } else if (group.rank() == 1) {
          group.recv(data, 0);
          group.send(data, 0);
        }
      });
    };
    const double ours = round_trip(*chosen);
    const double asleep = round_trip(*sleeping);
    if (prints) std::printf("%-12zu %10.1f %10.1f\n", bytes, ours, asleep);
  }
  return 0;
}
