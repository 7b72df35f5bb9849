// Picks the row operators' table for a tier. Called by cpu_operators and tests.
#include "kernels/cpu/row_kernels.h"

namespace phalanx::kernels {

float lane_sum16_of_squares(const float* x, int64_t num_cols) {
  return cpu::row_kernels(best_isa_tier()).sum_of_squares(x, num_cols);
}

namespace cpu {

const RowKernels& row_kernels(IsaTier tier) {
  switch (tier) {
    case IsaTier::kPortable:
      break;
    case IsaTier::kAvx2:
    case IsaTier::kAvx2Vnni:
      return row_kernels_avx2();
    case IsaTier::kAvx512:
      return row_kernels_avx512();
  }
  return row_kernels_portable();
}

}  // namespace cpu
}  // namespace phalanx::kernels
