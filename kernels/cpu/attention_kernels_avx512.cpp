// Attention kernels, AVX-512 tier. Compiled with the AVX-512 flags; entered only through the table.
// Called by attention.cpp.

// The order matters: the body needs Vec16 and its exp.
// clang-format off
#include "kernels/cpu/vec16_avx512.h"
#include "kernels/cpu/vec16_math.h"
#include "kernels/cpu/attention_kernels_body.h"
// clang-format on

namespace phalanx::kernels::cpu {

const AttentionKernels& attention_kernels_avx512() { return kAttentionKernels; }

}  // namespace phalanx::kernels::cpu
