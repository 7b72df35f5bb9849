// Kernels over rows: residual addition, RMS norm, silu and multiplication, each straight into the
// form that the next linear reads. One block a row, whose values wait in shared memory. Launched by
// row_operators; the same bits as the CPU's operators.
//
// Shape symbols: R rows (blocks), K columns, G group_size. Shared memory: row_shared_bytes(K).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/row_views.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// Threads of a block: whole warps, at least one.
inline constexpr int kRowThreads = 256;

inline constexpr int kNormLanes = 16;  // of lane_sum16 in operators.h

constexpr size_t row_shared_bytes(int64_t num_cols) {
  return (static_cast<size_t>(num_cols) + 1) * sizeof(float);
}

/// The scale of a group whose codes go up to `largest_code`, by one warp: 0 when it would be below
/// FLT_MIN, NaN when a value is.
__device__ __forceinline__ float scale_of_group(const float* values, int64_t group_size,
                                                float largest_code) {
  float largest = 0.0F;
  for (auto k = static_cast<int64_t>(threadIdx.x % 32); k < group_size; k += 32) {
    // As bit patterns, so that a NaN stays.
    const uint32_t a = __float_as_uint(largest);
    const uint32_t b = __float_as_uint(values[k]) & 0x7fffffffU;
    largest = __uint_as_float(a > b ? a : b);
  }
  constexpr float kSmallestNormal = 0x1p-126F;
  const float step = __fdiv_rn(largest_magnitude_of_warp(largest), largest_code);
  return step < kSmallestNormal ? 0.0F : step;
}

/// ActivationForm::kS8 of one group, by one warp: see operators.h.
__device__ __forceinline__ void quantize_group(const float* values, int64_t group_size,
                                               int8_t* codes, float* scale, int32_t* sum) {
  const auto lane = static_cast<int64_t>(threadIdx.x % 32);
  const float step = scale_of_group(values, group_size, 127.0F);
  const float inverse = step == 0.0F ? 0.0F : __fdiv_rn(1.0F, step);
  int32_t codes_sum = 0;
  for (int64_t k = lane; k < group_size; k += 32) {
    float scaled = values[k] * inverse;
    scaled = scaled < 127.0F ? scaled : 127.0F;  // NaN becomes 127
    scaled = scaled > -127.0F ? scaled : -127.0F;
    const int32_t code = __float2int_rn(scaled);
    codes[k] = static_cast<int8_t>(code);
    codes_sum += code;
  }
  codes_sum = sum_of_warp(codes_sum);
  if (lane == 0) {
    *scale = step;
    *sum = codes_sum;
  }
}

/// ActivationForm::kE4m3 of one group, by one warp: see operators.h.
__device__ __forceinline__ void quantize_group_e4m3(const float* values, int64_t group_size,
                                                    uint8_t* codes, float* scale) {
  constexpr float kLargestCode = 448.0F;
  const auto lane = static_cast<int64_t>(threadIdx.x % 32);
  const float step = scale_of_group(values, group_size, kLargestCode);
  const float inverse = step == 0.0F ? 0.0F : __fdiv_rn(1.0F, step);
  for (int64_t k = lane; k < group_size; k += 32) {
    const float scaled = values[k] * inverse;
    const uint8_t code = f32_to_e4m3(scaled < kLargestCode ? scaled : kLargestCode);  // NaN: 448
    codes[k] = step == 0.0F ? uint8_t{0} : code;
  }
  if (lane == 0) *scale = step;
}

/// Group `group` of row `row` of `out`, a form that has groups, by one warp.
__device__ __forceinline__ void store_group(const float* values, int64_t row, int64_t num_cols,
                                            int64_t group, const DeviceActivation& out) {
  const int64_t code = row * num_cols + group * out.group_size;
  const int64_t index = row * (num_cols / out.group_size) + group;
  if (out.form == DeviceForm::kS8) {
    quantize_group(values, out.group_size, static_cast<int8_t*>(out.codes) + code,
                   out.scales + index, out.sums + index);
  } else {
    quantize_group_e4m3(values, out.group_size, static_cast<uint8_t*>(out.codes) + code,
                        out.scales + index);
  }
}

/// Writes row `row` of `out` from its K values in shared memory, which all threads have written.
__device__ __forceinline__ void store_row(const float* values, int64_t row, int64_t num_cols,
                                          const DeviceActivation& out) {
  const auto thread = static_cast<int64_t>(threadIdx.x);
  if (out.form == DeviceForm::kF32) {
    float* y = out.rows.data + row * out.rows.stride;
    for (int64_t k = thread; k < num_cols; k += blockDim.x) y[k] = values[k];
  } else if (out.form == DeviceForm::kBf16) {
    auto* codes = static_cast<uint16_t*>(out.codes) + row * num_cols;
    for (int64_t k = thread; k < num_cols; k += blockDim.x) codes[k] = f32_to_bf16(values[k]);
  } else {
    const int64_t num_groups = num_cols / out.group_size;
    for (int64_t g = thread / 32; g < num_groups; g += blockDim.x / 32) {
      store_group(values + g * out.group_size, row, num_cols, g, out);
    }
  }
}

/// The sum over parts of element `offset`: the tree that goes on with the lanes' of a linear.
__device__ __forceinline__ float sum_of_parts(const DeviceParts& delta, int64_t offset) {
  float sums[kMostParts];

  for (int i = 0; i < kMostParts; ++i)
    sums[i] = i < delta.num_parts ? delta.parts[i][offset] : 0.0F;

  for (int distance = 1; distance < kMostParts; distance *= 2) {
    for (int i = 0; i + distance < kMostParts; i += 2 * distance) {
      if (i + distance < delta.num_parts) sums[i] = sums[i] + sums[i + distance];
    }
  }
  return sums[0];
}

/// values[k] = (values[k] / rms) * weight[k] for a row in shared memory, of row_shared_bytes(K).
/// The order of operations is that of operators.h: 16 threads add up the squares, each every 16th.
/// A barrier is before and after it.
__device__ __forceinline__ void normalize_row(float* values, int64_t num_cols, const float* weight,
                                              float eps) {
  const auto thread = static_cast<int64_t>(threadIdx.x);
  __syncthreads();
  if (thread < kNormLanes) {
    float sum = 0.0F;
    for (int64_t k = thread; k < num_cols; k += kNormLanes) {
      sum = __fmaf_rn(values[k], values[k], sum);
    }
    constexpr uint32_t kLanes = (1U << kNormLanes) - 1U;
    for (int half = kNormLanes / 2; half > 0; half /= 2) sum += __shfl_down_sync(kLanes, sum, half);
    const float mean = __fdiv_rn(sum, static_cast<float>(num_cols));
    if (thread == 0) values[num_cols] = __fdiv_rn(1.0F, __fsqrt_rn(mean + eps));
  }
  __syncthreads();
  const float inverse = values[num_cols];
  for (int64_t k = thread; k < num_cols; k += blockDim.x) {
    values[k] = (values[k] * inverse) * weight[k];
  }
  __syncthreads();
}

struct AddNorm {
  DeviceRows residual;      ///< [R, K]; += delta, unless there are no parts
  DeviceParts delta;        ///< num_parts 0: only the norm
  const float* delta_bias;  ///< [K] or null
  const float* weight;      ///< [K]; null: only the addition, nothing goes out
  float eps;
  int64_t num_cols;
  DeviceActivation out;
};

/// residual += delta (+ delta_bias); out = rms_norm(residual) * weight, in out's form.
template <typename Arguments = AddNorm>
__global__ void __launch_bounds__(kRowThreads) add_rms_norm(Arguments a) {
  float* values = shared_memory<float>();  // [K], then the factor
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto thread = static_cast<int64_t>(threadIdx.x);
  float* residual = a.residual.data + row * a.residual.stride;
  for (int64_t k = thread; k < a.num_cols; k += blockDim.x) {
    float value = residual[k];
    if (a.delta.num_parts > 0) {
      float delta = sum_of_parts(a.delta, row * a.delta.stride + k);
      if (a.delta_bias != nullptr) delta += a.delta_bias[k];
      value += delta;
      residual[k] = value;
    }
    values[k] = value;
  }
  if (a.weight == nullptr) return;
  normalize_row(values, a.num_cols, a.weight, a.eps);
  store_row(values, row, a.num_cols, a.out);
}

struct SiluMul {
  ConstDeviceRows gate;  ///< [R, K]
  ConstDeviceRows up;    ///< [R, K]
  int64_t num_cols;
  DeviceActivation out;
};

/// out = silu(gate) * up, in out's form.
template <typename Arguments = SiluMul>
__global__ void __launch_bounds__(kRowThreads) silu_mul(Arguments a) {
  float* values = shared_memory<float>();
  const auto row = static_cast<int64_t>(blockIdx.x);
  for (auto k = static_cast<int64_t>(threadIdx.x); k < a.num_cols; k += blockDim.x) {
    values[k] = silu(a.gate.data[row * a.gate.stride + k]) * a.up.data[row * a.up.stride + k];
  }
  __syncthreads();
  store_row(values, row, a.num_cols, a.out);
}

struct Convert {
  ConstDeviceRows x;  ///< [R, K]
  int64_t num_cols;
  DeviceActivation out;
};

/// out = x, in out's form.
template <typename Arguments = Convert>
__global__ void __launch_bounds__(kRowThreads) convert(Arguments a) {
  float* values = shared_memory<float>();
  const auto row = static_cast<int64_t>(blockIdx.x);
  for (auto k = static_cast<int64_t>(threadIdx.x); k < a.num_cols; k += blockDim.x) {
    values[k] = a.x.data[row * a.x.stride + k];
  }
  __syncthreads();
  store_row(values, row, a.num_cols, a.out);
}

struct Rope {
  DeviceRows x;  ///< [R, num_heads * head_dim], in place
  int64_t num_heads;
  int64_t head_dim;
  const float* cosines;  ///< [positions, rotary_dim / 2]
  const float* sines;    ///< as cosines
  int64_t rotary_dim;
  const int32_t* positions;  ///< [R]
};

/// Rotates halves; see operators.h.
template <typename Arguments = Rope>
__global__ void __launch_bounds__(kRowThreads) rope(Arguments a) {
  const auto row = static_cast<int64_t>(blockIdx.x);
  const int64_t half = a.rotary_dim / 2;
  const int64_t first = static_cast<int64_t>(a.positions[row]) * half;
  float* x = a.x.data + row * a.x.stride;
  for (auto i = static_cast<int64_t>(threadIdx.x); i < a.num_heads * half; i += blockDim.x) {
    float* head = x + i / half * a.head_dim;
    const int64_t d = i % half;
    const float cosine = a.cosines[first + d];
    const float sine = a.sines[first + d];
    const float low = head[d];
    const float high = head[d + half];
    head[d] = __fmaf_rn(low, cosine, -(high * sine));
    head[d + half] = __fmaf_rn(high, cosine, low * sine);
  }
}

struct Gather {
  ConstDeviceRows x;
  const int32_t* rows;  ///< [R]
  int64_t num_cols;
  DeviceRows y;
};

/// y[i, :] = x[rows[i], :].
template <typename Arguments = Gather>
__global__ void __launch_bounds__(kRowThreads) gather(Arguments a) {
  const auto row = static_cast<int64_t>(blockIdx.x);
  const float* x = a.x.data + a.rows[row] * a.x.stride;
  float* y = a.y.data + row * a.y.stride;
  for (auto k = static_cast<int64_t>(threadIdx.x); k < a.num_cols; k += blockDim.x) y[k] = x[k];
}

}  // namespace phalanx::kernels::cuda
