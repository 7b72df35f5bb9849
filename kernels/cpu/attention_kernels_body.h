// Attention over Vec16: compiled once per tier, included only by attention_kernels_*.cpp after
// their vec16_*.h and vec16_math.h. The order of operations it follows is stated in attention.h.
// Nothing here may call a non-inlined library function.
#pragma once

#include "kernels/cpu/attention_float_body.h"
#include "kernels/cpu/attention_int8_body.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/attention_tile_body.h"

namespace phalanx::kernels::cpu {
namespace {

constexpr AttentionKernels kAttentionKernels{
    {walk<FloatWalk<F32Blocks>>, walk<FloatWalk<Bf16Blocks>>, walk<Int8Walk>}, merge, quantize};

}  // namespace
}  // namespace phalanx::kernels::cpu
