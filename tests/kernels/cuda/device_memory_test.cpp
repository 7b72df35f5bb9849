// Shared memory, asynchronous copies, streaming accesses and flags between blocks, right ones; what
// happens to wrong ones is in faults_test.cpp and planted_bugs_test.cpp.
#include "kernels/cuda/device_memory.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/launch.h"
#include "tests/kernels/cuda/memory_kernels.h"
#include "tests/kernels/cuda/thread_orders.h"

namespace phalanx::kernels::cuda::test {
namespace {

std::vector<uint4> numbered(size_t count) {
  std::vector<uint4> values(count);
  for (uint32_t i = 0; i < count; ++i) values[i] = {i, ~i, i * 3, 1};
  return values;
}

bool equal(const uint4& a, const uint4& b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

TEST(DeviceMemory, SharedMemoryIsPoisonAndAligned) {
  const auto words = in_every_thread_order([] {
    std::vector<uint32_t> out(4 * 5, 0);
    void (*kernel)(uint32_t*) = [](uint32_t* result) {
      auto* shared = shared_memory<uint32_t>();
      result[blockIdx.x * 5 + threadIdx.x] = shared[threadIdx.x];  // as the block begins
      if (threadIdx.x == 4) result[blockIdx.x * 5 + 4] = reinterpret_cast<uintptr_t>(shared) % 128;
      __syncthreads();
      shared[threadIdx.x % 4] = 7;
    };
    launch(kernel, {4, 5, 5 * sizeof(uint32_t)}, nullptr, out.data());
    return out;
  });
  for (size_t i = 0; i < words.size(); ++i)
    EXPECT_EQ(words[i], i % 5 == 4 ? 0U : emulator::kPoison) << i;
}

TEST(DeviceMemory, PipelinedCopiesArrive) {
  for (const uint32_t threads : {1U, 20U, 64U, 256U}) {
    for (const int tiles : {1, 2, 3, 10}) {
      const auto input = numbered(static_cast<size_t>(tiles) * threads);
      const auto output = in_every_thread_order([&] {
        std::vector<uint4> out(input.size());
        launch(copy_pipelined<true, true>, {1, threads, 3 * threads * sizeof(uint4)}, nullptr,
               input.data(), tiles, out.data());
        return out;
      });
      for (size_t i = 0; i < input.size(); ++i) ASSERT_TRUE(equal(output[i], input[i])) << i;
    }
  }
}

TEST(DeviceMemory, MaskedCopiesGiveZeros) {
  const auto input = numbered(70);
  const auto output = in_every_thread_order([&] {
    std::vector<uint4> out(input.size());
    launch(copy_or_zero<uint4>, {1, 70, 70 * sizeof(uint4)}, nullptr, input.data(), 33U,
           out.data());
    return out;
  });
  for (size_t i = 0; i < input.size(); ++i)
    EXPECT_TRUE(equal(output[i], i < 33 ? input[i] : uint4{0, 0, 0, 0})) << i;
}

TEST(DeviceMemory, StreamingCopies) {
  const auto input = numbered(100);
  std::vector<uint4> output(100);
  launch(copy_streaming<uint4>, {4, 25}, nullptr, input.data(), output.data());
  for (size_t i = 0; i < input.size(); ++i) EXPECT_TRUE(equal(output[i], input[i])) << i;
}

TEST(DeviceMemory, FlagsOrderStoresOfCoresidentBlocks) {
  for (const uint32_t ranks : {1U, 2U, 4U}) {
    constexpr uint32_t kParts = 3;
    constexpr uint32_t kCount = 1000;
    const auto outputs = in_every_thread_order([&] {
      std::vector<float> buffers(ranks * kCount);
      std::vector<uint32_t> flags(kParts * ranks);
      std::vector<float> out(ranks * kCount);
      launch_coresident(all_reduce<true>, {ranks * kParts, 64}, nullptr, buffers.data(),
                        flags.data(), out.data(), ranks, kCount);
      return out;
    });
    for (uint32_t rank = 0; rank < ranks; ++rank) {
      for (uint32_t i = 0; i < kCount; ++i) {
        float sum = 0;
        for (uint32_t r = 0; r < ranks; ++r)
          sum += static_cast<float>(i % 97) + 100.0F * static_cast<float>(r);
        ASSERT_EQ(outputs[rank * kCount + i], sum) << "rank " << rank << ", element " << i;
      }
    }
  }
}

}  // namespace
}  // namespace phalanx::kernels::cuda::test
