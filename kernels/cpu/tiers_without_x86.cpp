// Stands in for the x86 tiers on other processors, where only the portable tier exists.
// Chosen by CMake instead of isa_tier_x86.cpp and the *_avx*.cpp files of row and attention
// kernels.
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/row_kernels.h"

namespace phalanx::kernels {

IsaTier best_isa_tier() { return IsaTier::kPortable; }
bool has_vex_vnni() { return false; }

namespace cpu {

const AttentionKernels& attention_kernels_avx2() { return attention_kernels_portable(); }
const AttentionKernels& attention_kernels_avx512() { return attention_kernels_portable(); }
const RowKernels& row_kernels_avx2() { return row_kernels_portable(); }
const RowKernels& row_kernels_avx512() { return row_kernels_portable(); }

}  // namespace cpu
}  // namespace phalanx::kernels
