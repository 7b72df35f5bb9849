// The table of a tier with micro-kernels of 1 to 4 rows that fetch ahead in one way only. Included
// by linear_portable.cpp and linear_avx2.cpp after their lane_f32, lane_bf16, lane_quantized,
// lane_fp8, convert_bf16, convert_group and convert_e4m3_group (hence the anonymous namespace).
#pragma once

#include "kernels/cpu/linear_loops.h"

namespace phalanx::kernels::cpu {
namespace {

constexpr int kMaxRows = 4;

void multiply_f32(const LinearTask& task) {
  constexpr LaneKernels kKernels[kMaxRows] = {any_fetch(lane_f32<1>), any_fetch(lane_f32<2>),
                                              any_fetch(lane_f32<3>), any_fetch(lane_f32<4>)};
  multiply_panels(task, kKernels);
}

void multiply_bf16(const LinearTask& task) {
  constexpr LaneKernels kKernels[kMaxRows] = {any_fetch(lane_bf16<1>), any_fetch(lane_bf16<2>),
                                              any_fetch(lane_bf16<3>), any_fetch(lane_bf16<4>)};
  multiply_panels(task, kKernels);
}

template <bool kW4>
void multiply_quantized(const LinearTask& task) {
  constexpr LaneKernels kKernels[kMaxRows] = {
      any_fetch(lane_quantized<1, kW4>), any_fetch(lane_quantized<2, kW4>),
      any_fetch(lane_quantized<3, kW4>), any_fetch(lane_quantized<4, kW4>)};
  multiply_panels(task, kKernels);
}

void multiply_fp8(const LinearTask& task) {
  constexpr LaneKernels kKernels[kMaxRows] = {any_fetch(lane_fp8<1>), any_fetch(lane_fp8<2>),
                                              any_fetch(lane_fp8<3>), any_fetch(lane_fp8<4>)};
  multiply_panels(task, kKernels);
}

constexpr LinearTier kFourRowTier = {multiply_f32,
                                     multiply_bf16,
                                     multiply_quantized<false>,
                                     multiply_quantized<true>,
                                     multiply_fp8,
                                     convert_f32,
                                     convert_bf16,
                                     convert_groups<convert_group>,
                                     convert_groups<convert_e4m3_group>,
                                     kMaxRows};

}  // namespace
}  // namespace phalanx::kernels::cpu
