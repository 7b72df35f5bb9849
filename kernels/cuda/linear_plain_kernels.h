// Products of f32 matrices, for tests of models without rounding: plain, not fast. And rows of an
// embedding table, from the packed and from the natural layout. Launched by linear_launches.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/linear_call.h"
#include "kernels/cuda/linear_formats.h"
#include "kernels/cuda/linear_gated.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

/// A block makes 16 outputs of 16 rows, a thread each.
inline constexpr int kF32Rows = 16;
inline constexpr int kF32Threads = kTileOutputs * kF32Rows;

__device__ __forceinline__ float f32_product(const LinearCall& a, int64_t row, int n) {
  const MatrixGeometry& shape = a.w.shape;
  const float* x = reinterpret_cast<const float*>(a.x.codes) + row * shape.num_cols;
  const float* w = reinterpret_cast<const float*>(a.w.codes) +
                   static_cast<int64_t>(n / kTileOutputs) * shape.num_cols * kTileOutputs +
                   n % kTileOutputs;
  LaneTree lanes;
  for (int lane = 0; lane < shape.num_lanes; ++lane) {
    float sum = 0.0F;
    for (int i = 0; i < shape.lane_cols; ++i) {
      const int64_t k = static_cast<int64_t>(lane) * shape.lane_cols + i;
      sum = __fmaf_rn(x[k], w[k * kTileOutputs], sum);
    }
    lanes.add(sum);
  }
  const float total = lanes.total();
  return a.w.bias == nullptr ? total : total + a.w.bias[n];
}

/// Grid: 16 columns of the output x 16 rows. Shared memory, gated: a word.
template <bool kGated>
__global__ void __launch_bounds__(kF32Threads) linear_f32(LinearCall a) {
  const auto col = static_cast<int>(blockIdx.x * kTileOutputs + threadIdx.x % kTileOutputs);
  const auto first_row = static_cast<int>(blockIdx.y) * kF32Rows;
  const int row = first_row + static_cast<int>(threadIdx.x) / kTileOutputs;
  const int num_cols = kGated ? a.w.shape.num_rows / 2 : a.w.shape.num_rows;
  const bool present = col < num_cols && row < a.x.num_rows;
  if constexpr (!kGated) {
    if (present) a.y[row * a.y_stride + col] = f32_product(a, row, col);
  } else {
    if (present) {
      store_gated(a.gated, num_cols, row, col, f32_product(a, row, col),
                  f32_product(a, row, num_cols + col));
    }
    const GatedPart part{
        num_cols,  static_cast<int>(blockIdx.x) * kTileOutputs, kTileOutputs,
        first_row, min(first_row + kF32Rows, a.x.num_rows),     static_cast<int>(blockIdx.y)};
    quantize_complete_groups(a.gated, part, shared_memory<uint32_t>());
  }
}

inline constexpr int kEmbeddingThreads = 256;

/// Code k of output n of a packed matrix, less the default zero if it has one.
__device__ __forceinline__ float packed_code(const DeviceMatrix& w, int n, int k) {
  const MatrixGeometry& shape = w.shape;
  const int64_t tile = n / kTileOutputs;
  const int output = n % kTileOutputs;
  if (w.format == WeightFormat::kF32) {
    return reinterpret_cast<const float*>(
        w.codes)[(tile * shape.num_cols + k) * kTileOutputs + output];
  }
  const int code_bytes = w.format == WeightFormat::kBf16 ? 2 : 1;
  const int step_cols = kStepBytes / code_bytes;
  const int in_lane = k % shape.lane_cols;
  const int in_group = in_lane % shape.group_cols;
  const int step = k / shape.lane_cols * shape.lane_steps +
                   in_lane / shape.group_cols * shape.group_steps + in_group / step_cols;
  const int byte = in_group % step_cols * code_bytes;  // of the step
  const int word = byte % 8 / 4 * 2 + output / 8;
  const int lane = output % 8 * 4 + byte / 8;
  const int chunk = w.format == WeightFormat::kW4 ? step / 2 : step;
  const std::byte* codes = w.codes + (tile * shape.num_chunks + chunk) * int64_t{kChunkBytes} +
                           lane * 16 + word * 4 + byte % 4;
  if (w.format == WeightFormat::kBf16) {
    return bf16_to_f32(*reinterpret_cast<const uint16_t*>(codes));
  }
  if (w.format == WeightFormat::kFp8) return e4m3_to_f32(*reinterpret_cast<const uint8_t*>(codes));
  const auto code = *reinterpret_cast<const int8_t*>(codes);
  if (w.format == WeightFormat::kW8) return static_cast<float>(code);
  const int nibble = step % 2 == 0 ? static_cast<int>(code) << 4 : static_cast<int>(code);
  return static_cast<float>(static_cast<int8_t>(nibble) >> 4);
}

struct PackedEmbedding {
  DeviceMatrix table;
  const int32_t* token_ids;
  DeviceRows y;
};

/// y[r, :] = row token_ids[r] of the table. A block a row.
template <typename Arguments = PackedEmbedding>
__global__ void __launch_bounds__(kEmbeddingThreads) embedding_packed(Arguments a) {
  const auto row = static_cast<int64_t>(blockIdx.x);
  const int n = a.token_ids[row];
  const MatrixGeometry& shape = a.table.shape;
  for (auto k = static_cast<int>(threadIdx.x); k < shape.num_cols; k += kEmbeddingThreads) {
    float value = packed_code(a.table, n, k);
    if (a.table.scales != nullptr) {
      const int64_t index =
          (static_cast<int64_t>(n / kTileOutputs) * shape.num_groups + k / shape.group_cols) *
              kTileOutputs +
          n % kTileOutputs;
      if (a.table.zeros != nullptr) {
        const int by_default = a.table.format == WeightFormat::kW8 ? 128 : 8;
        value -= static_cast<float>(static_cast<int>(a.table.zeros[index]) - by_default);
      }
      value *= load_scale(a.table.scales, a.table.scale_dtype, index);
    }
    a.y.data[row * a.y.stride + k] = value;
  }
}

/// MatrixSource with pointers into device memory, without what embeddings do not need.
struct NaturalTable {
  WeightFormat format;
  DType scale_dtype;
  int64_t num_cols;
  const std::byte* codes;
  int64_t row_stride_bytes;
  const std::byte* scales;
  int64_t scale_row_stride;
  const uint8_t* zeros;
  int64_t group_size;
  int64_t scale_rows;  ///< kFp8, as all below
  int64_t scale_cols;
  int64_t first_row;
  int64_t first_col;
};

struct NaturalEmbedding {
  NaturalTable table;
  const int32_t* token_ids;
  DeviceRows y;
};

/// The same of the natural layout.
template <typename Arguments = NaturalEmbedding>
__global__ void __launch_bounds__(kEmbeddingThreads) embedding_natural(Arguments a) {
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto n = static_cast<int64_t>(a.token_ids[row]);
  const NaturalTable& table = a.table;
  const std::byte* codes = table.codes + n * table.row_stride_bytes;
  for (auto k = static_cast<int64_t>(threadIdx.x); k < table.num_cols; k += kEmbeddingThreads) {
    float value;
    if (table.format == WeightFormat::kF32) {
      value = reinterpret_cast<const float*>(codes)[k];
    } else if (table.format == WeightFormat::kBf16) {
      value = bf16_to_f32(reinterpret_cast<const uint16_t*>(codes)[k]);
    } else if (table.format == WeightFormat::kFp8) {
      const int64_t index =  // scale_index: no group straddles scales
          (table.first_row + n) / table.scale_rows * table.scale_row_stride +
          (table.first_col + k) / table.scale_cols;
      value = e4m3_to_f32(reinterpret_cast<const uint8_t*>(codes)[k]) *
              reinterpret_cast<const float*>(table.scales)[index];
    } else {
      const auto* bytes = reinterpret_cast<const uint8_t*>(codes);
      const bool bytewise = table.format == WeightFormat::kW8;
      const int code = bytewise ? bytes[k] : bytes[k / 2] >> (4 * (k % 2)) & 15;
      const int64_t index = n * table.scale_row_stride + k / table.group_size;
      const int by_default = bytewise ? 128 : 8;
      const int zero = table.zeros == nullptr ? by_default : table.zeros[index];
      value = static_cast<float>(code - zero) * load_scale(table.scales, table.scale_dtype, index);
    }
    a.y.data[row * a.y.stride + k] = value;
  }
}

}  // namespace phalanx::kernels::cuda
