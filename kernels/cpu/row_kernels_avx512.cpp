// Row operators, AVX-512 tier. Compiled with the AVX-512 flags; entered only through row_kernels().
// Called by cpu_operators.

// The order matters: the body needs Vec16 and its exp.
// clang-format off
#include "kernels/cpu/vec16_avx512.h"
#include "kernels/cpu/vec16_math.h"
#include "kernels/cpu/row_kernels_body.h"
// clang-format on

namespace phalanx::kernels::cpu {

const RowKernels& row_kernels_avx512() { return kRowKernels; }

}  // namespace phalanx::kernels::cpu
