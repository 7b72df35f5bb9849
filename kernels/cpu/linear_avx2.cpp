// Matrix products and activation conversion with AVX2, FMA and F16C.
// Called by linear.cpp.
#include "kernels/cpu/linear_avx2_body.h"

namespace phalanx::kernels::cpu {

const LinearTier* avx2_linear_tier() { return &kFourRowTier; }

}  // namespace phalanx::kernels::cpu
