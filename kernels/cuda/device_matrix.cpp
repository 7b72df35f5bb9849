// Geometry and packing of the CUDA kernels' weight layout. Called while a model loads.
#include "kernels/cuda/device_matrix.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <string>

#include "kernels/operator_checks.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

constexpr int64_t kPartAlignment = 256;
constexpr int64_t kMaxGroupSize = 65536;  // 16 * 15 * 127 * group_size stays below 2^31
constexpr int64_t kF32Bytes = 4;

int64_t aligned(int64_t bytes) { return round_up(bytes, kPartAlignment); }

int64_t step_cols(WeightFormat format) {
  return format == WeightFormat::kBf16 ? kStepBytes / 2 : kStepBytes;
}
int64_t chunk_steps(WeightFormat format) { return format == WeightFormat::kW4 ? 2 : 1; }

int64_t code_bytes_of_tile(const DeviceMatrixLayout& layout) {
  if (layout.format == WeightFormat::kF32) {
    return int64_t{layout.shape.num_cols} * kTileOutputs * kF32Bytes;
  }
  return int64_t{layout.shape.num_chunks} * kChunkBytes;
}

int32_t checked_int32(int64_t value, const char* name) {
  PHALANX_CHECK(value >= 0 && value <= std::numeric_limits<int32_t>::max(),
                std::string(name) + " of a matrix is " + std::to_string(value));
  return static_cast<int32_t>(value);
}

MatrixGeometry make_geometry(const DeviceMatrixShape& shape) {
  const bool quantized = is_quantized(shape.format);
  PHALANX_CHECK(
      shape.num_lanes == 1 || shape.num_lanes == 2 || shape.num_lanes == 4 ||
          shape.num_lanes == kMostMatrixLanes,
      "a matrix in device memory has 1, 2, 4 or 8 lanes, not " + std::to_string(shape.num_lanes));
  PHALANX_CHECK_GT(shape.num_cols, 0, "num_cols of a matrix");
  PHALANX_CHECK_EQ(shape.num_cols % shape.num_lanes, 0, "num_lanes must divide num_cols");
  const int64_t lane_cols = shape.num_cols / shape.num_lanes;
  if (quantized) {
    PHALANX_CHECK(
        shape.group_size > 0 && shape.group_size % 8 == 0 && shape.group_size <= kMaxGroupSize,
        "group_size is " + std::to_string(shape.group_size) + ", must be a multiple of 8 up to " +
            std::to_string(kMaxGroupSize));
    PHALANX_CHECK_EQ(lane_cols % shape.group_size, 0, "group_size must divide a lane");
  }
  const int64_t step = step_cols(shape.format);
  int64_t group_cols = lane_cols;
  if (quantized) group_cols = shape.group_size;
  if (shape.format == WeightFormat::kBf16) group_cols = std::min<int64_t>(kSpanCols, lane_cols);
  const int64_t lane_groups = ceil_div(lane_cols, group_cols);
  const int64_t group_steps = ceil_div(group_cols, step);
  const int64_t lane_steps = quantized ? lane_groups * group_steps : ceil_div(lane_cols, step);

  MatrixGeometry geometry{};
  geometry.num_rows = checked_int32(shape.num_rows, "num_rows");
  geometry.num_cols = checked_int32(shape.num_cols, "num_cols");
  geometry.num_lanes = static_cast<int32_t>(shape.num_lanes);
  geometry.lane_cols = static_cast<int32_t>(lane_cols);
  geometry.group_cols = static_cast<int32_t>(group_cols);
  geometry.lane_groups = static_cast<int32_t>(lane_groups);
  geometry.group_steps = static_cast<int32_t>(group_steps);
  geometry.lane_steps = static_cast<int32_t>(lane_steps);
  geometry.num_tiles = static_cast<int32_t>(ceil_div(shape.num_rows, kTileOutputs));
  geometry.num_groups = static_cast<int32_t>(shape.num_lanes * lane_groups);
  geometry.num_steps = static_cast<int32_t>(shape.num_lanes * lane_steps);
  geometry.num_chunks =
      static_cast<int32_t>(ceil_div(geometry.num_steps, chunk_steps(shape.format)));
  geometry.dense_steps = (quantized ? group_cols : lane_cols) % step == 0;
  return geometry;
}

/// Where output n of a tile comes from; source null for padding.
struct SourceRow {
  const MatrixSource* source = nullptr;
  int64_t row = 0;
};
using SourceRows = std::array<SourceRow, kTileOutputs>;

SourceRows rows_of_tile(const MatrixSpec& spec, int64_t tile) {
  SourceRows rows;
  int64_t first = 0;
  for (const MatrixSource& source : spec.sources) {
    for (int64_t i = 0; i < kTileOutputs; ++i) {
      const int64_t n = tile * kTileOutputs + i;
      if (n >= first && n < first + source.num_rows)
        rows[static_cast<size_t>(i)] = {&source, n - first};
    }
    first += source.num_rows;
  }
  return rows;
}

/// The activation bytes a step multiplies, in order, as codes of one output: s8 codes less the
/// default zero, e4m3 codes, or bf16.
using StepBytes = std::array<uint8_t, kStepBytes>;

void load_step(const DeviceMatrixLayout& layout, const SourceRow& row, int64_t step,
               StepBytes& codes) {
  codes.fill(0);
  const MatrixGeometry& shape = layout.shape;
  if (row.source == nullptr || step >= shape.num_steps) return;
  const int64_t lane_step = step % shape.lane_steps;
  const int64_t group = lane_step / shape.group_steps;
  const int64_t in_group = lane_step % shape.group_steps * step_cols(layout.format);
  const int64_t in_lane = group * shape.group_cols + in_group;
  const int64_t k = step / shape.lane_steps * shape.lane_cols + in_lane;
  const int64_t count =
      std::min({step_cols(layout.format), shape.group_cols - in_group, shape.lane_cols - in_lane});
  const std::byte* from = row.source->codes + row.row * row.source->row_stride_bytes +
                          weight_row_bytes(layout.format, k);
  std::memcpy(codes.data(), from, static_cast<size_t>(weight_row_bytes(layout.format, count)));
  if (layout.format == WeightFormat::kW8) {
    for (int64_t i = 0; i < count; ++i) codes[static_cast<size_t>(i)] ^= 0x80U;  // code - 128
  }
  if (layout.format == WeightFormat::kW4) {
    for (int64_t i = count - 1; i >= 0; --i) {  // from the end: two codes come out of a byte
      const uint32_t pair = codes[static_cast<size_t>(i / 2)];
      // Bit 3 turned over is code - 8 in two's complement.
      codes[static_cast<size_t>(i)] = static_cast<uint8_t>((pair >> (4 * (i % 2)) & 15U) ^ 8U);
    }
  }
}

uint32_t word_of(const StepBytes& codes, int byte) {
  uint32_t word;
  std::memcpy(&word, codes.data() + byte, sizeof(word));
  return word;
}

void pack_chunk(const DeviceMatrixLayout& layout, const SourceRows& rows, int64_t chunk,
                std::byte* to) {
  std::array<std::array<StepBytes, kTileOutputs>, 2> steps;
  const int64_t num_steps = chunk_steps(layout.format);
  for (int64_t s = 0; s < num_steps; ++s) {
    for (size_t i = 0; i < kTileOutputs; ++i) {
      load_step(layout, rows[i], chunk * num_steps + s, steps[static_cast<size_t>(s)][i]);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int j = 0; j < 4; ++j) {
      const auto output = static_cast<size_t>(lane / 4 + 8 * (j % 2));
      const int byte = lane % 4 * 8 + j / 2 * 4;
      uint32_t word = word_of(steps[0][output], byte);
      if (num_steps == 2) word |= word_of(steps[1][output], byte) << 4;
      std::memcpy(to + lane * 16 + j * 4, &word, sizeof(word));
    }
  }
}

float load_scale(const MatrixSource& source, int64_t index) {
  const std::byte* from =
      source.scales + index * static_cast<int64_t>(dtype_bytes(source.scale_dtype));
  if (source.scale_dtype == DType::kF32) {
    float value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return source.scale_dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

void pack_scales(const DeviceMatrixLayout& layout, const SourceRows& rows, int64_t tile,
                 std::byte* image) {
  const int64_t num_groups = layout.shape.num_groups;
  const auto width = static_cast<int64_t>(dtype_bytes(layout.scale_dtype));
  for (int64_t group = 0; group < num_groups; ++group) {
    for (int64_t i = 0; i < kTileOutputs; ++i) {
      const SourceRow& row = rows[static_cast<size_t>(i)];
      const int64_t to = (tile * num_groups + group) * kTileOutputs + i;
      std::byte* scale = image + layout.scales_offset + to * width;
      std::byte* zero = image + layout.zeros_offset + to;
      if (row.source == nullptr) {
        std::memset(scale, 0, static_cast<size_t>(width));
        if (layout.has_zeros) *zero = std::byte{0};
        continue;
      }
      const int64_t from = scale_index(*row.source, row.row, group);
      if (row.source->scale_dtype == layout.scale_dtype) {
        std::memcpy(scale, row.source->scales + from * width, static_cast<size_t>(width));
      } else {
        const float value = load_scale(*row.source, from);
        std::memcpy(scale, &value, sizeof(value));
      }
      if (layout.has_zeros) {
        const uint8_t by_default = layout.format == WeightFormat::kW8 ? 128 : 8;
        *zero = static_cast<std::byte>(row.source->zeros == nullptr ? by_default
                                                                    : row.source->zeros[from]);
      }
    }
  }
}

void pack_f32_tile(const DeviceMatrixLayout& layout, const SourceRows& rows, std::byte* to) {
  for (int64_t k = 0; k < layout.shape.num_cols; ++k) {
    for (int64_t i = 0; i < kTileOutputs; ++i) {
      const SourceRow& row = rows[static_cast<size_t>(i)];
      std::byte* code = to + (k * kTileOutputs + i) * kF32Bytes;
      if (row.source == nullptr) {
        std::memset(code, 0, kF32Bytes);
      } else {
        std::memcpy(code,
                    row.source->codes + row.row * row.source->row_stride_bytes + k * kF32Bytes,
                    kF32Bytes);
      }
    }
  }
}

}  // namespace

DeviceMatrixLayout make_device_matrix_layout(const DeviceMatrixShape& shape) {
  DeviceMatrixLayout layout;
  layout.format = shape.format;
  layout.shape = make_geometry(shape);
  layout.has_bias = shape.has_bias;
  layout.scales_offset = aligned(layout.shape.num_tiles * code_bytes_of_tile(layout));
  layout.zeros_offset = layout.scales_offset;
  const int64_t tiles = layout.shape.num_tiles;
  const int64_t scales = tiles * layout.shape.num_groups * kTileOutputs;
  if (is_quantized(shape.format)) {
    checked_int32(scales, "the number of scales");
    PHALANX_CHECK(shape.scale_dtype == DType::kF32 || shape.scale_dtype == DType::kF16 ||
                      shape.scale_dtype == DType::kBf16,
                  "scale_dtype must be f32, f16 or bf16");
    layout.scale_dtype = shape.scale_dtype;
    layout.group_size = shape.group_size;
    layout.has_zeros = shape.has_zeros;
    layout.zeros_offset += aligned(scales * static_cast<int64_t>(dtype_bytes(shape.scale_dtype)));
  }
  layout.bias_offset = layout.zeros_offset + (layout.has_zeros ? aligned(scales) : 0);
  layout.total_bytes =
      layout.bias_offset + (layout.has_bias ? aligned(tiles * kTileOutputs * kF32Bytes) : 0);
  return layout;
}

DeviceMatrixLayout make_device_matrix_layout(const MatrixSpec& spec) {
  PHALANX_CHECK(!spec.sources.empty(), "a matrix needs a source");
  const MatrixSource& first = spec.sources.front();
  DeviceMatrixShape shape{
      first.format,      0,     first.num_cols,      spec.num_lanes, first.group_size,
      first.scale_dtype, false, spec.bias != nullptr};
  for (const MatrixSource& source : spec.sources) {
    PHALANX_CHECK(source.format == first.format && source.num_cols == first.num_cols &&
                      (!is_quantized(first.format) || source.group_size == first.group_size),
                  "stacked sources must agree in format, num_cols and group_size");
    check_scale_blocks(source);
    shape.num_rows += source.num_rows;
    if (source.scale_dtype != first.scale_dtype) shape.scale_dtype = DType::kF32;
    if (source.zeros != nullptr) shape.has_zeros = true;
  }
  return make_device_matrix_layout(shape);
}

int64_t device_matrix_bytes(const DeviceMatrixShape& shape) {
  return make_device_matrix_layout(shape).total_bytes;
}

void pack_device_matrix(const MatrixSpec& spec, const DeviceMatrixLayout& layout,
                        int64_t first_tile, int64_t end_tile, std::byte* image) {
  PHALANX_CHECK(first_tile >= 0 && end_tile <= layout.shape.num_tiles,
                "tiles " + std::to_string(first_tile) + " to " + std::to_string(end_tile) + " of " +
                    std::to_string(layout.shape.num_tiles));
  for (int64_t tile = first_tile; tile < end_tile; ++tile) {
    const SourceRows rows = rows_of_tile(spec, tile);
    std::byte* codes = image + tile * code_bytes_of_tile(layout);
    if (layout.format == WeightFormat::kF32) {
      pack_f32_tile(layout, rows, codes);
    } else {
      for (int64_t chunk = 0; chunk < layout.shape.num_chunks; ++chunk) {
        pack_chunk(layout, rows, chunk, codes + chunk * kChunkBytes);
      }
    }
    if (is_quantized(layout.format)) pack_scales(layout, rows, tile, image);
    if (!layout.has_bias) continue;
    for (int64_t i = 0; i < kTileOutputs; ++i) {
      const int64_t n = tile * kTileOutputs + i;
      const float value = n < layout.shape.num_rows ? spec.bias[n] : 0.0F;
      std::memcpy(image + layout.bias_offset + n * kF32Bytes, &value, kF32Bytes);
    }
  }
}

DeviceMatrix make_device_matrix(const DeviceMatrixLayout& layout, const std::byte* memory) {
  DeviceMatrix matrix{};
  matrix.format = layout.format;
  matrix.scale_dtype = layout.scale_dtype;
  matrix.shape = layout.shape;
  matrix.group_size = layout.group_size;
  matrix.codes = memory;
  if (is_quantized(layout.format)) matrix.scales = memory + layout.scales_offset;
  if (layout.has_zeros) {
    matrix.zeros = reinterpret_cast<const uint8_t*>(memory + layout.zeros_offset);
  }
  if (layout.has_bias) {
    matrix.bias = reinterpret_cast<const float*>(memory + layout.bias_offset);
  }
  return matrix;
}

bool fuses_gated_linear_on_device(WeightFormat format, int64_t num_outputs) {
  return num_outputs > 0 &&
         num_outputs % (format == WeightFormat::kF32 ? 2 : 2 * kTileOutputs) == 0;
}

}  // namespace phalanx::kernels::cuda
