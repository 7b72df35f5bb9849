// Stands in for the x86 tiers of linear on other processors. Called by linear.cpp.
#include "kernels/cpu/linear_tiers.h"

namespace phalanx::kernels::cpu {

const LinearTier* avx2_linear_tier() { return nullptr; }
const LinearTier* avx2_vnni_vex_linear_tier() { return nullptr; }
const LinearTier* avx2_vnni_evex_linear_tier() { return nullptr; }
const LinearTier* avx512_linear_tier() { return nullptr; }

}  // namespace phalanx::kernels::cpu
