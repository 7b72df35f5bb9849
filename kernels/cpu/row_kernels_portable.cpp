// Row operators, plain C++ tier, for processors without AVX2.
// Called by cpu_operators.

// The order matters: the body needs Vec16 and its exp.
// clang-format off
#include "kernels/cpu/vec16_portable.h"
#include "kernels/cpu/vec16_math.h"
#include "kernels/cpu/row_kernels_body.h"
// clang-format on

namespace phalanx::kernels::cpu {

const RowKernels& row_kernels_portable() { return kRowKernels; }

}  // namespace phalanx::kernels::cpu
