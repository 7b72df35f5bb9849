// Row operators, AVX2 tier. Compiled with -mavx2 -mfma -mf16c; entered only through row_kernels().
// Called by cpu_operators.

// The order matters: the body needs Vec16 and its exp.
// clang-format off
#include "kernels/cpu/vec16_avx2.h"
#include "kernels/cpu/vec16_math.h"
#include "kernels/cpu/row_kernels_body.h"
// clang-format on

namespace phalanx::kernels::cpu {

const RowKernels& row_kernels_avx2() { return kRowKernels; }

}  // namespace phalanx::kernels::cpu
