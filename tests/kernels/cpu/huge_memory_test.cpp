// Zeroed, aligned memory of all sizes.
#include "kernels/cpu/huge_memory.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx::kernels::cpu {
namespace {

TEST(HugeMemoryTest, IsZeroedAlignedAndWritable) {
  for (int64_t bytes : {0, 1, 63, 64, 4097, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 9'000'001}) {
    const auto memory = allocate_zeroed(bytes);
    const uintptr_t alignment = bytes >= (2 << 20) ? 2 << 20 : 64;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % alignment, 0U) << bytes;
    EXPECT_TRUE(std::all_of(memory.get(), memory.get() + bytes, [](std::byte b) {
      return b == std::byte{0};
    })) << bytes;
    std::fill(memory.get(), memory.get() + bytes, std::byte{0xff});
  }
}

TEST(HugeMemoryTest, NegativeSizesAreInternalErrors) {
  EXPECT_THROW(allocate_zeroed(-1), InternalError);
}

TEST(HugeMemoryTest, InterleavedMemoryIsOfThatPolicy) {
  constexpr int64_t kBytes = 5 << 20;
  const auto memory = allocate_zeroed(kBytes);
  const std::vector<int> nodes = {0};
  if (!interleave(memory.get(), kBytes, nodes)) GTEST_SKIP() << "the kernel refuses mbind here";
  for (const int64_t offset : {int64_t{0}, kBytes - 1}) {
    int mode = -1;
    unsigned long mask[16] = {};
    ASSERT_EQ(syscall(SYS_get_mempolicy, &mode, mask, 16 * 64, memory.get() + offset, MPOL_F_ADDR),
              0);
    EXPECT_EQ(mode, MPOL_INTERLEAVE) << offset;
    EXPECT_EQ(mask[0], 1U) << offset;
  }
  EXPECT_TRUE(std::all_of(memory.get(), memory.get() + kBytes,
                          [](std::byte b) { return b == std::byte{0}; }));
}

TEST(HugeMemoryTest, NodesThatAreNotThereAreRefusedWithoutHarm) {
  constexpr int64_t kBytes = 2 << 20;
  const auto memory = allocate_zeroed(kBytes);
  const std::vector<int> nodes = {1000};
  EXPECT_FALSE(interleave(memory.get(), kBytes, nodes));
  std::fill(memory.get(), memory.get() + kBytes, std::byte{1});
}

TEST(HugeMemoryTest, SmallMemoryIsNotInterleaved) {
  const auto memory = allocate_zeroed(4096);
  const std::vector<int> nodes = {1000};  // would be refused
  EXPECT_TRUE(interleave(memory.get(), 4096, nodes));
}

}  // namespace
}  // namespace phalanx::kernels::cpu
