// Looks rows up in an embedding table of any format. Called by cpu_operators.
#include <cstring>

#include "kernels/cpu/linear.h"
#include "runtime/base/check.h"
#include "runtime/base/dtype.h"

namespace phalanx::kernels::cpu {
namespace {

void dequantize_row(const MatrixSource& table, int64_t n, float* y) {
  const bool is_w8 = table.format == WeightFormat::kW8;
  const auto* codes = reinterpret_cast<const uint8_t*>(table.codes) + n * table.row_stride_bytes;
  const int64_t num_groups = table.num_cols / table.group_size;
  for (int64_t group = 0; group < num_groups; ++group) {
    const int64_t index = n * table.scale_row_stride + group;
    const float scale = stored_scale(table, index);
    const int zero = table.zeros != nullptr ? table.zeros[index] : (is_w8 ? 128 : 8);
    const int64_t begin = group * table.group_size;
    const int64_t end = begin + table.group_size;
    if (is_w8) {
      for (int64_t k = begin; k < end; ++k) y[k] = static_cast<float>(codes[k] - zero) * scale;
    } else {
      for (int64_t k = begin; k < end; k += 2) {
        const int pair = codes[k / 2];
        y[k] = static_cast<float>((pair & 15) - zero) * scale;
        y[k + 1] = static_cast<float>((pair >> 4) - zero) * scale;
      }
    }
  }
}

void dequantize_e4m3_row(const MatrixSource& table, int64_t n, float* y) {
  const auto* codes = reinterpret_cast<const uint8_t*>(table.codes) + n * table.row_stride_bytes;
  for (int64_t begin = 0; begin < table.num_cols; begin += table.group_size) {
    const float scale = stored_scale(table, scale_index(table, n, begin / table.group_size));
    for (int64_t k = begin; k < begin + table.group_size; ++k) y[k] = e4m3_to_f32(codes[k]) * scale;
  }
}

void embed_row(const MatrixSource& table, int64_t n, float* y) {
  const std::byte* codes = table.codes + n * table.row_stride_bytes;
  switch (table.format) {
    case WeightFormat::kF32:
      std::memcpy(y, codes, static_cast<size_t>(table.num_cols) * 4);
      return;
    case WeightFormat::kBf16:
      for (int64_t k = 0; k < table.num_cols; ++k) {
        uint16_t bits;
        std::memcpy(&bits, codes + k * 2, 2);
        y[k] = bf16_to_f32(bits);
      }
      return;
    case WeightFormat::kW8:
    case WeightFormat::kW4:
      dequantize_row(table, n, y);
      return;
    case WeightFormat::kFp8:
      dequantize_e4m3_row(table, n, y);
      return;
  }
}

}  // namespace

void embedding(const MatrixSource& table, std::span<const int32_t> token_ids, Rows y,
               ThreadTeam& team) {
  if (is_quantized(table.format))
    PHALANX_CHECK(table.scale_dtype == DType::kF32 || table.scale_dtype == DType::kF16 ||
                      table.scale_dtype == DType::kBf16,
                  "scale_dtype must be f32, f16 or bf16");
  constexpr int64_t kRowsPerThread = 16;
  team.split(static_cast<int64_t>(token_ids.size()), kRowsPerThread,
             [&](int64_t begin, int64_t end) {
               uint64_t* tally = team.tally();
               for (int64_t r = begin; r < end; ++r) {
                 embed_row(table, token_ids[static_cast<size_t>(r)], y.data + r * y.stride);
                 count_piece(tally);
               }
             });
}

}  // namespace phalanx::kernels::cpu
