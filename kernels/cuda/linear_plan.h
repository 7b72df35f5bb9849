// How a product of few rows is cut over blocks, warps and segments. Used by linear_launches.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_matrix.h"
#include "kernels/cuda/linear_small_plan.h"

namespace phalanx::kernels::cuda {

struct SmallLaunch {
  SmallPlan plan{};
  int num_warps = 0;
  int64_t num_blocks = 0;
  int64_t shared_bytes = 0;
};

/// For R <= 16. A gated product needs whole tiles in its halves. Errors: InternalError when no cut
/// fits into shared_bytes_of_block.
SmallLaunch plan_small(const DeviceMatrix& w, int64_t num_rows, bool gated, int num_sms,
                       int64_t shared_bytes_of_block);

}  // namespace phalanx::kernels::cuda
