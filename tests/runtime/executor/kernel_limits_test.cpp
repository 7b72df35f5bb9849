// model::kernel_limits allows exactly what the kernels take.
#include "runtime/model/kernel_limits.h"

#include <gtest/gtest.h>

#include "kernels/operators.h"
#include "runtime/base/check.h"

namespace phalanx {
namespace {

using kernels::WeightFormat;

template <typename Call>
bool kernels_take(const Call& call) {
  try {
    call();
    return true;
  } catch (const InternalError&) {
    return false;
  }
}

TEST(KernelLimits, HeadDim) {
  for (const auto format :
       {kernels::KvFormat::kF32, kernels::KvFormat::kBf16, kernels::KvFormat::kInt8}) {
    for (int64_t head_dim = -8; head_dim <= 2 * model::kMaxHeadDim; ++head_dim)
      EXPECT_EQ(model::check_head_dim("head_dim", head_dim).ok(),
                kernels_take([&] { kernels::kv_block_bytes(format, head_dim); }))
          << head_dim;
  }
}

TEST(KernelLimits, ReductionLanes) {
  constexpr int64_t kHeads = 4096;
  for (const auto format :
       {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8, WeightFormat::kFp8}) {
    for (int64_t lanes = -1; lanes <= 2 * model::kMaxReductionLanes; ++lanes) {
      const int64_t group = kernels::is_quantized(format) ? 8 : 0;
      EXPECT_EQ(model::check_reduction_lanes("lanes", lanes, kHeads).ok(), kernels_take([&] {
                  kernels::packed_matrix_bytes(format, 64, 8 * kHeads, group, false, false, lanes);
                }))
          << lanes;
    }
  }
}

TEST(KernelLimits, GroupSize) {
  for (const auto format : {WeightFormat::kW8, WeightFormat::kW4, WeightFormat::kFp8}) {
    for (int64_t power = 1; power <= 2 * model::kMaxGroupSize; power *= 2) {
      for (const int64_t group : {power - 1, power, power + 4, 3 * power}) {
        for (const int64_t cols : {group, 6 * group, 6 * group + 8}) {
          if (cols < 1) continue;
          EXPECT_EQ(model::check_group_size("group", group, cols).ok(), kernels_take([&] {
                      kernels::packed_matrix_bytes(format, 1, cols, group, false);
                    }))
              << group << " of " << cols;
        }
      }
    }
  }
}

}  // namespace
}  // namespace phalanx
