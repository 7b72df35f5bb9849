// Attention kernels, AVX2 tier. Compiled with -mavx2 -mfma -mf16c; entered only through the table.
// Called by attention.cpp.

// The order matters: the body needs Vec16 and its exp.
// clang-format off
#include "kernels/cpu/vec16_avx2.h"
#include "kernels/cpu/vec16_math.h"
#include "kernels/cpu/attention_kernels_body.h"
// clang-format on

namespace phalanx::kernels::cpu {

const AttentionKernels& attention_kernels_avx2() { return kAttentionKernels; }

}  // namespace phalanx::kernels::cpu
