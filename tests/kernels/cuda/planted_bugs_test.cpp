// Bugs planted in kernels, which the emulated device must make visible: results that depend on the
// order of threads, or poison where data should be.
#include <chrono>
#include <cmath>
#include <cstdint>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/launch.h"
#include "tests/kernels/cuda/memory_kernels.h"
#include "tests/kernels/cuda/thread_orders.h"

namespace phalanx::kernels::cuda::test {
namespace {

#if !defined(__SANITIZE_THREAD__)  // which would rightly end the process at the race

TEST(PlantedBugs, MissingBarrierShowsInTheOrderOfThreads) {
  for (const uint32_t threads : {2U, 33U, 256U}) {
    const auto found = thread_order_difference([&] {
      std::vector<float> values(threads);
      for (uint32_t i = 0; i < threads; ++i) values[i] = static_cast<float>(i);
      launch(reverse_block<false>, {1, threads, threads * sizeof(float)}, nullptr, values.data());
      return values;
    });
    EXPECT_TRUE(found.has_value()) << threads << " threads";
  }
}

TEST(PlantedBugs, MissingWarpBarrierShowsInTheOrderOfThreads) {
  const auto found = thread_order_difference([&] {
    std::vector<uint32_t> values(64);
    for (uint32_t i = 0; i < 64; ++i) values[i] = i;
    void (*kernel)(uint32_t*) = [](uint32_t* data) {
      auto* shared = shared_memory<uint32_t>();
      shared[threadIdx.x] = data[threadIdx.x];
      data[threadIdx.x] = shared[threadIdx.x ^ 1U];
    };
    launch(kernel, {1, 64, 64 * sizeof(uint32_t)}, nullptr, values.data());
    return values;
  });
  EXPECT_TRUE(found.has_value());
}

std::vector<uint32_t> copy_with(void (*kernel)(const uint4*, int, uint4*), int tiles) {
  constexpr uint32_t kThreads = 32;
  std::vector<uint4> input(static_cast<size_t>(tiles) * kThreads, uint4{1, 1, 1, 1});
  std::vector<uint4> output(input.size());
  launch(kernel, {1, kThreads, 3 * kThreads * sizeof(uint4)}, nullptr, input.data(), tiles,
         output.data());
  std::vector<uint32_t> firsts;
  for (const uint4& value : output) firsts.push_back(value.x);
  return firsts;
}

TEST(PlantedBugs, MissingCopyWaitShowsAsPoison) {
  const auto output =
      in_every_thread_order([] { return copy_with(copy_pipelined<false, true>, 8); });
  EXPECT_THAT(output, testing::Each(emulator::kPoison));
  EXPECT_TRUE(std::isnan(__uint_as_float(emulator::kPoison)));
}

TEST(PlantedBugs, CopyWaitWithoutBarrierShowsInTheOrderOfThreads) {
  EXPECT_TRUE(thread_order_difference([] {
                return copy_with(copy_pipelined<true, false>, 8);
              }).has_value());
  EXPECT_FALSE(
      thread_order_difference([] { return copy_with(copy_pipelined<true, true>, 8); }).has_value());
}

TEST(PlantedBugs, AllReduceWithoutFlagWaitGivesWrongSums) {
  static constexpr uint32_t kRanks = 4;
  static constexpr uint32_t kCount = 4096;
  const auto reduce = [](void (*kernel)(float*, uint32_t*, float*, uint32_t, uint32_t)) {
    std::vector<float> buffers(kRanks * kCount, NAN);
    std::vector<uint32_t> flags(kRanks);
    std::vector<float> outputs(kRanks * kCount);
    launch_coresident(kernel, {kRanks, 64}, nullptr, buffers.data(), flags.data(), outputs.data(),
                      kRanks, kCount);
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < kRanks * kCount; ++i)
      wrong += outputs[i] == 4.0F * static_cast<float>(i % kCount % 97) + 600.0F ? 0 : 1;
    return wrong;
  };
  // Blocks run on threads of their own, so that which rank is late is chance; that one is, is not
  // in some of many runs.
  bool shown = false;
  for (int i = 0; i < 50 && !shown; ++i) shown = reduce(all_reduce<false>) > 0;
  EXPECT_TRUE(shown);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(reduce(all_reduce<true>), 0U);
}

#endif

TEST(PlantedBugs, SumInOrderOfArrivalShowsInTheOrderOfThreads) {
  const auto found = thread_order_difference([] {
    std::vector<float> sum{0};
    void (*kernel)(float*) = [](float* total) {
      atomicAdd(total, 1.0F / static_cast<float>(threadIdx.x + 1));
    };
    launch(kernel, {1, 100}, nullptr, sum.data());
    return sum;
  });
  EXPECT_TRUE(found.has_value());
}

TEST(ThreadOrders, DifferencesAreFoundAndToldOf) {
  int run = 0;
  const auto found = thread_order_difference([&] {
    ++run;
    return std::tuple(std::vector<int>{1, 2}, std::vector<float>{0.5F, run == 3 ? 4.0F : 3.0F});
  });
  EXPECT_EQ(run, 4);
  EXPECT_EQ(found.value_or(""),
            "ascending and shuffled by seed 11: output 1, element 1: 3 against 4");
  EXPECT_FALSE(thread_order_difference([] { return std::vector<float>{NAN}; }).has_value());
  // Bits, not values.
  int second = 0;
  EXPECT_TRUE(thread_order_difference([&] {
                return std::vector<float>{second++ == 1 ? -0.0F : 0.0F};
              }).has_value());
}

TEST(ThreadOrders, ShuffledOrderIsThatOfItsSeed) {
  const auto order_of_arrival = [](uint64_t seed) {
    emulator::DeviceOptions options = emulator::device_options();
    options.order = emulator::ThreadOrder::kShuffled;
    options.seed = seed;
    options.num_os_threads = 1;
    const emulator::ScopedDeviceOptions scope(options);
    std::vector<uint32_t> order(4 * 64 + 1);
    void (*kernel)(uint32_t*) = [](uint32_t* out) {
      out[1 + atomicAdd(&out[0], 1U)] = blockIdx.x * 64 + threadIdx.x;
    };
    launch(kernel, {4, 64}, nullptr, order.data());
    return order;
  };
  EXPECT_EQ(order_of_arrival(5), order_of_arrival(5));
  EXPECT_NE(order_of_arrival(5), order_of_arrival(6));
}

}  // namespace
}  // namespace phalanx::kernels::cuda::test
