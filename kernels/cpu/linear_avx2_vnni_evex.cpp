// The AVX2 tier with AVX-512 VNNI's vpdpbusd on 256 bits (processors with VNNI but without BF16).
// Called by linear.cpp.
#define PHALANX_DPBUSD _mm256_dpbusd_epi32
#include "kernels/cpu/linear_avx2_body.h"

namespace phalanx::kernels::cpu {

const LinearTier* avx2_vnni_evex_linear_tier() { return &kFourRowTier; }

}  // namespace phalanx::kernels::cpu
