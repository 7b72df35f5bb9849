// Limits: finite, positive and of the right threads; how fast is for people to judge, except for
// what holds on any machine by orders of magnitude.
#include "launcher/bench/machine_limits.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cpu/huge_memory.h"
#include "launcher/bench/limit_loops.h"
#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

using kernels::IsaTier;

std::vector<IsaTier> tiers() {
  std::vector<IsaTier> out;
  for (const IsaTier tier : kernels::kIsaTiers) {
    if (tier <= kernels::best_isa_tier()) out.push_back(tier);
  }
  return out;
}

MachineLimitsOptions quick(IsaTier tier = kernels::best_isa_tier()) {
  MachineLimitsOptions options;
  options.isa_tier = tier;
  options.sample_seconds = 0.001;
  return options;
}

void expect_rate(double rate, const std::string& what) {
  EXPECT_TRUE(std::isfinite(rate)) << what;
  EXPECT_GT(rate, 1e-3) << what;
  EXPECT_LT(rate, 1e7) << what;
}

TEST(MachineLimits, EveryTierGivesRates) {
  for (const IsaTier tier : tiers()) {
    MachineLimits limits(1, quick(tier));
    for (const PeakKind kind : {PeakKind::kInt8, PeakKind::kBf16, PeakKind::kF32}) {
      expect_rate(limits.peak_gops(kind), peak_kind_name(kind));
      EXPECT_NE(std::string(limits.peak_instruction(kind)), "");
    }
    for (const ReadFrom from : limits.levels())
      expect_rate(limits.read_gbs(from), read_from_name(from));
  }
}

TEST(MachineLimits, SeveralThreadsAndMoreThanCores) {
  for (const int num_threads : {2, 3, 5}) {
    MachineLimits limits(num_threads, quick());
    EXPECT_EQ(limits.num_threads(), num_threads);
    expect_rate(limits.int8_gops(), "int8");
    expect_rate(limits.bf16_gops(), "bf16");
    expect_rate(limits.f32_gops(), "f32");
    expect_rate(limits.read_gbs(), "DRAM");
    expect_rate(limits.read_gbs(), "DRAM again");
  }
}

TEST(MachineLimits, LevelsGrowAndMemoryIsLargerThanTheCaches) {
  const MachineLimits limits(1, quick());
  const std::vector<ReadFrom> levels = limits.levels();
  ASSERT_FALSE(levels.empty());
  EXPECT_EQ(levels.back(), ReadFrom::kDram);
  for (size_t i = 1; i < levels.size(); ++i)
    EXPECT_GT(limits.working_set_bytes(levels[i]), limits.working_set_bytes(levels[i - 1]));
  EXPECT_GE(limits.working_set_bytes(ReadFrom::kDram), int64_t{256} << 20);
}

TEST(MachineLimits, TheCallersBindingStaysAsItIs) {
  cpu_set_t before;
  cpu_set_t after;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  {
    MachineLimits limits(2, quick());
    limits.int8_gops();
    ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
    EXPECT_TRUE(CPU_EQUAL(&before, &after));
  }
  ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
}

TEST(MachineLimits, CallersMayBeOtherThreadsInTurn) {
  MachineLimits limits(1, quick());
  double rate = 0;
  std::thread([&] { rate = limits.f32_gops(); }).join();
  expect_rate(rate, "from a thread");
  expect_rate(limits.f32_gops(), "from the maker");
}

TEST(MachineLimits, WrongArgumentsAreRefused) {
  EXPECT_THROW(MachineLimits(0), InternalError);
  MachineLimitsOptions instant;
  instant.sample_seconds = 0;
  EXPECT_THROW(MachineLimits(1, instant), InternalError);
}

TEST(MachineLimits, NamesAreOfTheirKind) {
  EXPECT_EQ(peak_kind(kernels::WeightFormat::kW4), PeakKind::kInt8);
  EXPECT_EQ(peak_kind(kernels::WeightFormat::kW8), PeakKind::kInt8);
  EXPECT_EQ(peak_kind(kernels::WeightFormat::kBf16), PeakKind::kBf16);
  EXPECT_EQ(peak_kind(kernels::WeightFormat::kF32), PeakKind::kF32);
  EXPECT_STREQ(read_from_name(ReadFrom::kL2), "L2");
}

TEST(LimitLoops, ReadingSeesEveryByte) {
  constexpr int64_t kBytes = 4096;
  const auto memory = kernels::cpu::allocate_zeroed(kBytes + 8192);
  for (const IsaTier tier : tiers()) {
    const LimitLoops& loops = limit_loops(tier);
    for (const int64_t prefetch : {0, 512, 4096}) {
      EXPECT_EQ(loops.read(memory.get(), kBytes, 2, prefetch), 0U);
      for (int64_t place = 0; place < kBytes; place += 61) {
        memory.get()[place] = std::byte{1};
        EXPECT_NE(loops.read(memory.get(), kBytes, 1, prefetch), 0U) << place;
        memory.get()[place] = std::byte{0};
      }
      memory.get()[kBytes] = std::byte{1};
      EXPECT_EQ(loops.read(memory.get(), kBytes, 1, prefetch), 0U);
      memory.get()[kBytes] = std::byte{0};
    }
  }
}

}  // namespace
}  // namespace phalanx::bench
