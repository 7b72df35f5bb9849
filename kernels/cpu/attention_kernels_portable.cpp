// Attention kernels, plain C++ tier, for processors without AVX2.
// Called by attention.cpp.

// The order matters: the body needs Vec16 and its exp.
// clang-format off
#include "kernels/cpu/vec16_portable.h"
#include "kernels/cpu/vec16_math.h"
#include "kernels/cpu/attention_kernels_body.h"
// clang-format on

namespace phalanx::kernels::cpu {

const AttentionKernels& attention_kernels_portable() { return kAttentionKernels; }

}  // namespace phalanx::kernels::cpu
