// What the emulated device finds wrong with kernels: each mistake is thrown out of launch() with
// its kind, and a text that names kernel, block, thread and what they wait for; nothing leaks or
// hangs.
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/emulator/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/simt.h"
#include "tests/kernels/cuda/fault_kernels.h"
#include "tests/kernels/cuda/thread_orders.h"

namespace phalanx::kernels::cuda::test {
namespace {

using emulator::FaultKind;
using emulator::KernelFault;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::Matcher;

/// In every thread order; then that the device still works.
void expect_fault(FaultKind kind, const Matcher<std::string>& text,
                  const std::function<void()>& launch_it) {
  for (const emulator::DeviceOptions& options : thread_orders()) {
    const emulator::ScopedDeviceOptions scope(options);
    try {
      launch_it();
      ADD_FAILURE() << "nothing was thrown, " << order_name(options);
    } catch (const KernelFault& fault) {
      EXPECT_EQ(static_cast<int>(fault.kind()), static_cast<int>(kind)) << fault.what();
      EXPECT_THAT(fault.what(), text) << order_name(options);
    }
  }
}

class ShortDeadline : public testing::Test {
 protected:
  ShortDeadline() : scope_(options()) {}

 private:
  static emulator::DeviceOptions options() {
    emulator::DeviceOptions options = emulator::device_options();
    options.deadline = std::chrono::milliseconds(150);
    return options;
  }
  emulator::ScopedDeviceOptions scope_;
};

TEST(KernelFaults, DeadlockNamesWhoWaitsForWhat) {
  uint32_t result = 0;
  expect_fault(
      FaultKind::kDeadlock,
      AllOf(HasSubstr("barrier_against_shuffle"), HasSubstr("block (0,0,0)"),
            HasSubstr("no thread can move"), HasSubstr("63 threads, the first of them (0,0,0)"),
            HasSubstr("waiting in __syncthreads at tests/kernels/cuda/fault_kernels.h:"),
            HasSubstr("1 thread (5,0,0): waiting in __shfl_sync"),
            HasSubstr("of warp 0 with the mask 0xffffffff for lanes 0xffffffdf")),
      [&] {
        launch(barrier_against_shuffle<uint32_t>, {1, 64}, nullptr, 5U, &result);
      });
}

TEST(KernelFaults, DifferentBarriersDoNotMeet) {
  expect_fault(FaultKind::kDivergentBarrier,
               AllOf(HasSubstr("barrier_in_branches"), HasSubstr("block (0,0,0), thread ("),
                     HasSubstr("__syncthreads, while"), HasSubstr("fault_kernels.h:")),
               [] {
                 launch(barrier_in_branches<uint32_t>, {1, 48}, nullptr, 20U);
               });
  uint32_t result = 0;
  expect_fault(FaultKind::kDivergentBarrier,
               AllOf(HasSubstr("__syncthreads_or"), HasSubstr("__syncthreads_and")), [&] {
                 launch(different_barriers<uint32_t>, {1, 48}, nullptr, 20U, &result);
               });
}

TEST(KernelFaults, LaneThatReturnedIsWaitedFor) {
  std::vector<uint32_t> results(64);
  // Whether it returns before or after the others come, by the thread order.
  expect_fault(
      FaultKind::kExitedLaneInMask,
      AllOf(HasSubstr("exit_before_shuffle"), HasSubstr("__shfl_down_sync"),
            AnyOf(HasSubstr("thread (40,0,0) (lane 8) returned, but is in the mask 0xffffffff"),
                  HasSubstr("names lanes 0x100, which have returned"))),
      [&] {
        launch(exit_before_shuffle<uint32_t>, {1, 64}, nullptr, 40U, results.data());
      });
}

TEST(KernelFaults, LaneOutsideItsMask) {
  std::vector<uint32_t> results(32);
  expect_fault(FaultKind::kLaneOutsideMask,
               AllOf(HasSubstr("wrong_mask"), HasSubstr("thread (7,0,0) at "),
                     HasSubstr("__ballot_sync: lane 7 calls it with the mask 0xffffff7f")),
               [&] {
                 launch(wrong_mask<uint32_t>, {1, 32}, nullptr, 0xffffff7fU, results.data());
               });
}

TEST(KernelFaults, DifferentWarpFunctionsDoNotMeet) {
  std::vector<uint32_t> results(32);
  expect_fault(
      FaultKind::kMixedWarpFunctions,
      AllOf(HasSubstr("mixed_functions"), HasSubstr("__ballot_sync"), HasSubstr("__any_sync")),
      [&] {
        launch(mixed_functions<uint32_t>, {1, 32}, nullptr, results.data());
      });
}

TEST(KernelFaults, ShuffleWidthThatIsNone) {
  std::vector<uint32_t> results(32);
  for (const int width : {0, -1, 3, 64}) {
    expect_fault(FaultKind::kBadArgument, HasSubstr("__shfl_sync: width " + std::to_string(width)),
                 [&] {
                   launch(wrong_shuffle_width<uint32_t>, {1, 32}, nullptr, width, results.data());
                 });
  }
}

#if !defined(__SANITIZE_ADDRESS__)  // which ends the process at the overrun itself
TEST(KernelFaults, SharedMemoryBeyondWhatWasAskedFor) {
  for (const int offset : {1, 40, -1}) {
    expect_fault(FaultKind::kSharedOverrun,
                 AllOf(HasSubstr("write_shared"), HasSubstr("beside the 128 bytes")), [&] {
                   launch(write_shared<uint32_t>, {1, 32, 128}, nullptr, offset);
                 });
  }
  EXPECT_NO_THROW(launch(write_shared<uint32_t>, {1, 32, 128}, nullptr, 0));
}
#else
TEST(KernelFaultsDeathTest, SharedMemoryBeyondWhatWasAskedFor) {
  for (const int offset : {1, -1}) {
    EXPECT_DEATH(launch(write_shared<uint32_t>, {1, 32, 128}, nullptr, offset),
                 "heap-buffer-overflow");
  }
}
#endif

TEST(KernelFaults, WrappersRefuseSharedMemoryThatWasNotAskedFor) {
  alignas(16) static unsigned char input[64] = {};
  for (const int offset : {64, 4096, -16}) {
    expect_fault(FaultKind::kSharedOverrun,
                 AllOf(HasSubstr("cp_async_16: 16 bytes at offset " + std::to_string(offset)),
                       HasSubstr("which has 64 bytes")),
                 [&] {
                   launch(copy_async_at<uint4>, {1, 1, 64}, nullptr, input, 0, offset);
                 });
  }
  std::vector<uint32_t> results(32);
  expect_fault(FaultKind::kSharedOverrun, HasSubstr("ldmatrix_x4: 16 bytes at offset 512"), [&] {
    launch(load_fragments_at<uint32_t>, {1, 32, 512}, nullptr, 16, results.data());
  });
}

TEST(KernelFaults, WrappersRefuseMisalignedAddresses) {
  alignas(16) static unsigned char data[64] = {};
  expect_fault(FaultKind::kMisaligned,
               HasSubstr("cp_async_16 (source): the address is 4 bytes past"), [] {
                 launch(copy_async_at<uint4>, {1, 1, 64}, nullptr, data, 4, 0);
               });
  expect_fault(FaultKind::kMisaligned,
               HasSubstr("cp_async_16 (shared): the address is 8 bytes past"), [] {
                 launch(copy_async_at<uint4>, {1, 1, 64}, nullptr, data, 0, 8);
               });
  std::vector<uint32_t> results(32);
  expect_fault(FaultKind::kMisaligned, HasSubstr("ldmatrix_x4: the address is 2 bytes past"), [&] {
    launch(load_fragments_at<uint32_t>, {1, 32, 528}, nullptr, 2, results.data());
  });
  expect_fault(FaultKind::kMisaligned, HasSubstr("load_streaming: the address is 1 bytes past"),
               [] {
                 launch(stream_at<uint4>, {1, 1}, nullptr, data, 1, 0);
               });
  expect_fault(FaultKind::kMisaligned, HasSubstr("store_streaming: the address is 12 bytes past"),
               [] {
                 launch(stream_at<uint4>, {1, 1}, nullptr, data, 0, 12);
               });
}

TEST(KernelFaults, MatrixInstructionsTakeWholeWarps) {
  std::vector<uint32_t> results(32);
  expect_fault(FaultKind::kExitedLaneInMask,
               AllOf(HasSubstr("mma_m16n8k16_bf16"), HasSubstr("only lanes 0xfffff")), [&] {
                 launch(multiply_in_part_of_warp<uint32_t>, {1, 20}, nullptr, 20U, results.data());
               });
  expect_fault(FaultKind::kExitedLaneInMask, HasSubstr("mma_m16n8k16_bf16"), [&] {
    launch(multiply_in_part_of_warp<uint32_t>, {1, 32}, nullptr, 31U, results.data());
  });
}

TEST(KernelFaults, LaunchesThatNoDeviceTakes) {
  const auto refuses = [](const LaunchShape& shape, const std::string& why) {
    expect_fault(
        FaultKind::kBadLaunch,
        AllOf(HasSubstr("trap_in<unsigned int>"), HasSubstr("cannot be launched"), HasSubstr(why)),
        [&] { launch(trap_in<uint32_t>, shape, nullptr, 0U, 0U); });
  };
  refuses({1, 0}, "a block of 0 x 1 x 1");
  refuses({1, 1025}, "a block of 1025 x 1 x 1");
  refuses({1, dim3(32, 33)}, "a block of 32 x 33 x 1");
  refuses({1, dim3(1, 1, 65)}, "z at most 64");
  refuses({0, 32}, "a grid of 0 x 1 x 1");
  refuses({dim3(1, 65536), 32}, "a grid of 1 x 65536 x 1");
  refuses({1, 32, 227 * 1024 + 1}, "232449 bytes of shared memory");
  expect_fault(FaultKind::kBadLaunch, HasSubstr("257 co-resident blocks; allowed are 256"), [] {
    launch_coresident(trap_in<uint32_t>, {257, 1}, nullptr, 0U, 0U);
  });
}

TEST_F(ShortDeadline, EndsGridsThatOnlySpin) {
  const uint32_t flag = 0;
  expect_fault(FaultKind::kDeadline,
               AllOf(HasSubstr("wait_for_ever"), HasSubstr("not ended after 150 ms"),
                     HasSubstr("1 thread (3,0,0): spinning in load_acquire_system"),
                     HasSubstr("waiting in __syncthreads")),
               [&] {
                 launch_coresident(wait_for_ever<uint32_t>, {3, 40}, nullptr, &flag);
               });
}

TEST_F(ShortDeadline, BlocksThatWaitForBlocksMustBeCoresident) {
  uint32_t arrived = 0;
  launch_coresident(wait_for_all_blocks<uint32_t>, {12, 33}, nullptr, &arrived);
  EXPECT_GE(arrived, 12U);
  expect_fault(FaultKind::kDeadline, HasSubstr("not launched co-resident"), [&] {
    arrived = 0;
    launch(wait_for_all_blocks<uint32_t>, {12, 33}, nullptr, &arrived);
  });
}

TEST(KernelFaults, TrapNamesBlockAndThread) {
  expect_fault(FaultKind::kTrap,
               AllOf(HasSubstr("block (2,0,0), thread (9,0,0)"), HasSubstr("__trap()")), [] {
                 launch(trap_in<uint32_t>, {4, 40}, nullptr, 2U, 9U);
               });
  // The other blocks wait for nobody, or are given up with it.
  expect_fault(FaultKind::kTrap, HasSubstr("block (2,0,0), thread (9,0,0)"), [] {
    launch_coresident(trap_in<uint32_t>, {4, 40}, nullptr, 2U, 9U);
  });
}

/// Owns memory while it waits, as kernels do not: what is not unwound leaks and is counted.
void hold_and_throw(int* num_held, uint32_t thrower) {
  struct Held {
    explicit Held(int* count) : count_(count), memory_(std::make_unique<int[]>(100)) { ++*count_; }
    ~Held() { --*count_; }
    int* count_;
    std::unique_ptr<int[]> memory_;
  };
  const Held held(num_held);
  __syncthreads();
  if (threadIdx.x == thrower) throw std::out_of_range("the kernel's own");
  __syncwarp();
  __shfl_xor_sync(0xffffffffU, 1, 1);
  __syncthreads();
}

TEST(KernelFaults, ExceptionsOfKernelThreadsComeOutUnwound) {
  for (const emulator::DeviceOptions& options : thread_orders()) {
    const emulator::ScopedDeviceOptions scope(options);
    for (int i = 0; i < 3; ++i) {
      int num_held = 0;
      try {
        launch(hold_and_throw, {1, 100}, nullptr, &num_held, 37U);
        ADD_FAILURE() << "nothing was thrown";
      } catch (const std::out_of_range& error) {
        EXPECT_STREQ(error.what(), "the kernel's own");
      }
      EXPECT_EQ(num_held, 0);
      EXPECT_NO_THROW(launch(hold_and_throw, {1, 100}, nullptr, &num_held, 100U));
      EXPECT_EQ(num_held, 0);
    }
  }
}

TEST(KernelFaults, BuiltinsAreForKernels) {
  EXPECT_THROW(__syncthreads(), InternalError);
  EXPECT_THROW((void)threadIdx.x, InternalError);
  void (*kernel)() = [] { launch(trap_in<uint32_t>, {1, 1}, nullptr, 0U, 0U); };
  EXPECT_THROW(launch(kernel, {1, 1}, nullptr), InternalError);
}

TEST(KernelFaults, LaunchesOfSeveralHostThreadsDoNotMeet) {
  std::vector<std::jthread> hosts;
  std::vector<uint32_t> arrived(4);
  std::vector<int> caught(4);
  for (size_t host = 0; host < 4; ++host) {
    hosts.emplace_back([&, host] {
      for (int i = 0; i < 20; ++i) {
        arrived[host] = 0;
        launch_coresident(wait_for_all_blocks<uint32_t>, {3, 40}, nullptr, &arrived[host]);
        try {
          launch(trap_in<uint32_t>, {4, 40}, nullptr, 2U, 9U);
        } catch (const KernelFault&) {
          ++caught[host];
        }
      }
    });
  }
  hosts.clear();
  EXPECT_EQ(caught, std::vector<int>(4, 20));
}

}  // namespace
}  // namespace phalanx::kernels::cuda::test
