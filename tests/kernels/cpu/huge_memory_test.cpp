// Zeroed, aligned memory of all sizes.
#include "kernels/cpu/huge_memory.h"

#include <algorithm>

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

}  // namespace
}  // namespace phalanx::kernels::cpu
