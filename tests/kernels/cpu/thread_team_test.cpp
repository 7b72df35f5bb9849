// Tests of ThreadTeam: every thread runs every body once, sleepers wake, idle teams use no CPU.
#include "kernels/cpu/thread_team.h"

#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx::kernels::cpu {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

double process_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct TeamCase {
  int num_threads;
  bool spin;
};

class ThreadTeamTest : public ::testing::TestWithParam<TeamCase> {};

TEST_P(ThreadTeamTest, EveryThreadRunsEveryBodyOnce) {
  const auto [num_threads, spin] = GetParam();
  ThreadTeam team(num_threads, spin);
  ASSERT_EQ(team.size(), num_threads);
  // Plain ints: TSan reports a missing edge between the fork, the bodies and the join.
  std::vector<int> calls(static_cast<size_t>(num_threads), 0);
  int64_t before = 0;
  constexpr int kRuns = 2000;
  for (int run = 0; run < kRuns; ++run) {
    before = run;
    team.run([&](int index) {
      ASSERT_EQ(before, run);
      ++calls[static_cast<size_t>(index)];
    });
    for (const int count : calls) ASSERT_EQ(count, run + 1);
  }
}

TEST_P(ThreadTeamTest, WorksAgainAfterItsThreadsFellAsleep) {
  const auto [num_threads, spin] = GetParam();
  ThreadTeam team(num_threads, spin);
  std::vector<int> calls(static_cast<size_t>(num_threads), 0);
  // Pauses around the spinning time hit the moment at which threads go to sleep.
  for (int run = 0; run < 200; ++run) {
    std::this_thread::sleep_for(microseconds(run % 5 * 20));
    team.run([&](int index) {
      if ((run + index) % 7 == 0) std::this_thread::sleep_for(microseconds(index * 100));
      ++calls[static_cast<size_t>(index)];
    });
    for (const int count : calls) ASSERT_EQ(count, run + 1);
  }
}

TEST_P(ThreadTeamTest, CallerSleepsThroughALongBody) {
  const auto [num_threads, spin] = GetParam();
  ThreadTeam team(num_threads, spin);
  std::atomic<int> finished{0};
  const double before = process_cpu_seconds();
  team.run([&](int index) {
    if (index == team.size() - 1) std::this_thread::sleep_for(milliseconds(200));
    ++finished;
  });
  EXPECT_EQ(finished.load(), num_threads);
  EXPECT_LT(process_cpu_seconds() - before, 0.05);
}

TEST_P(ThreadTeamTest, AnIdleTeamUsesNoCpu) {
  const auto [num_threads, spin] = GetParam();
  ThreadTeam team(num_threads, spin);
  team.run([](int) {});
  std::this_thread::sleep_for(milliseconds(20));
  const double before = process_cpu_seconds();
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_LT(process_cpu_seconds() - before, 0.01);
}

TEST_P(ThreadTeamTest, SplitCoversEachItemOnceInGranules) {
  const auto [num_threads, spin] = GetParam();
  ThreadTeam team(num_threads, spin);
  for (const int64_t granule : {1, 4, 16}) {
    for (const int64_t num_items : {0, 1, 3, 15, 16, 17, 31, 64, 100, 257}) {
      std::vector<std::atomic<int>> touched(static_cast<size_t>(num_items));
      team.split(num_items, granule, [&](int64_t begin, int64_t end) {
        ASSERT_LT(begin, end);
        ASSERT_EQ(begin % granule, 0);
        ASSERT_TRUE(end % granule == 0 || end == num_items);
        for (int64_t item = begin; item < end; ++item) ++touched[static_cast<size_t>(item)];
      });
      for (const auto& count : touched) ASSERT_EQ(count.load(), 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadTeamTest,
                         ::testing::Values(TeamCase{1, true}, TeamCase{2, true}, TeamCase{2, false},
                                           TeamCase{3, true}, TeamCase{3, false},
                                           TeamCase{9, false}),
                         [](const auto& test) {
                           return std::to_string(test.param.num_threads) +
                                  (test.param.spin ? "spinning" : "sleeping");
                         });

TEST(ThreadTeamBinding, ThreadsRunWhereTheyAreToldAndTheCallerGetsItsMaskBack) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  std::vector<int> allowed_cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) allowed_cpus.push_back(cpu);
  }
  for (const size_t first : {0, 1, 7}) {
    std::vector<int> cpus;
    for (size_t i = 0; i < 3; ++i) cpus.push_back(allowed_cpus[(first + i) % allowed_cpus.size()]);
    ThreadTeam team(3, false, cpus);
    std::vector<cpu_set_t> masks(3);
    // The first body of all: what it touches first lies near its cpu.
    team.run([&](int index) {
      sched_getaffinity(0, sizeof(cpu_set_t), &masks[static_cast<size_t>(index)]);
    });
    for (size_t index = 0; index < masks.size(); ++index) {
      EXPECT_EQ(CPU_COUNT(&masks[index]), 1);
      EXPECT_TRUE(CPU_ISSET(cpus[index], &masks[index])) << first << " + " << index;
    }
  }
  cpu_set_t after;
  ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&allowed, &after));
}

TEST(ThreadTeamBinding, ThreadsOfCpusThatAreNotThereRunUnbound) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  int missing = CPU_SETSIZE - 1;
  while (CPU_ISSET(missing, &allowed)) --missing;
  ThreadTeam team(2, false, {missing, missing});
  std::vector<cpu_set_t> masks(2);
  team.run([&](int index) {
    sched_getaffinity(0, sizeof(cpu_set_t), &masks[static_cast<size_t>(index)]);
  });
  for (const cpu_set_t& mask : masks) EXPECT_TRUE(CPU_EQUAL(&mask, &allowed));
}

TEST(ThreadTeamErrors, NeedsAThread) { EXPECT_THROW(ThreadTeam(0, true), InternalError); }

TEST(ThreadTeamErrors, NeedsACpuForEachThreadOrNone) {
  EXPECT_THROW(ThreadTeam(2, true, {0}), InternalError);
  EXPECT_THROW(ThreadTeam(1, true, {0, 1}), InternalError);
  EXPECT_THROW(ThreadTeam(1, true, {-1}), InternalError);
  EXPECT_THROW(ThreadTeam(1, true, {CPU_SETSIZE}), InternalError);
}

}  // namespace
}  // namespace phalanx::kernels::cpu
