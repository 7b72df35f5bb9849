// The AVX2 tier with AVX-VNNI's vpdpbusd (processors without AVX-512).
// Called by linear.cpp.
#define PHALANX_DPBUSD _mm256_dpbusd_avx_epi32
#include "kernels/cpu/linear_avx2_body.h"

namespace phalanx::kernels::cpu {

const LinearTier* avx2_vnni_vex_linear_tier() { return &kFourRowTier; }

}  // namespace phalanx::kernels::cpu
