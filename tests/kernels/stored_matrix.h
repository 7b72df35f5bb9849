// A random matrix in the natural layout and slices of it, and rows converted for a linear.
// Used by the tests of kernels.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/huge_memory.h"
#include "kernels/operators.h"
#include "runtime/base/dtype.h"

namespace phalanx::kernels::test {

struct StoredMatrixShape {
  WeightFormat format = WeightFormat::kF32;
  int64_t num_rows = 0;
  int64_t num_cols = 0;
  int64_t group_size = 0;
  bool has_zeros = false;
  DType scale_dtype = DType::kF32;
  /// kFp8 only, whose scales are f32 and which has no zeros. Blocks that end anywhere in a test's
  /// rows, unless it says otherwise; 0 columns: of two groups.
  int64_t scale_rows = 5;
  int64_t scale_cols = 0;
};

/// Natural layout with a few bytes between rows, so that strides matter.
class StoredMatrix {
 public:
  StoredMatrix(const StoredMatrixShape& shape, uint32_t seed) : shape_(shape) {
    std::mt19937 random(seed);
    if (shape_.format == WeightFormat::kFp8) {
      shape_.has_zeros = false;
      shape_.scale_dtype = DType::kF32;
      if (shape_.scale_cols == 0) shape_.scale_cols = 2 * shape_.group_size;
    }
    row_bytes_ = weight_row_bytes(shape.format, shape.num_cols) + 6;
    codes_.resize(static_cast<size_t>(shape.num_rows * row_bytes_));
    if (is_quantized(shape.format)) {
      for (std::byte& code : codes_) {
        do code = static_cast<std::byte>(random());
        while (shape.format == WeightFormat::kFp8 && (code & std::byte{0x7f}) == std::byte{0x7f});
      }
      fill_scales(random);
    } else {
      std::normal_distribution<float> normal(0.0F, 1.0F);
      for (int64_t n = 0; n < shape.num_rows; ++n)
        for (int64_t k = 0; k < shape.num_cols; ++k) set(n, k, normal(random));
    }
  }

  /// Float formats only.
  void set(int64_t n, int64_t k, float value) {
    std::byte* row = codes_.data() + n * row_bytes_;
    if (shape_.format == WeightFormat::kF32) {
      std::memcpy(row + k * 4, &value, 4);
    } else {
      const uint16_t bits = f32_to_bf16(value);
      std::memcpy(row + k * 2, &bits, 2);
    }
  }

  MatrixSource slice(int64_t row, int64_t num_rows, int64_t col, int64_t num_cols) const {
    MatrixSource source;
    source.format = shape_.format;
    source.num_rows = num_rows;
    source.num_cols = num_cols;
    source.codes = codes_.data() + row * row_bytes_ + weight_row_bytes(shape_.format, col);
    source.row_stride_bytes = row_bytes_;
    if (is_quantized(shape_.format)) {
      const bool is_fp8 = shape_.format == WeightFormat::kFp8;
      const int64_t first = is_fp8 ? 0 : row * scale_stride() + col / shape_.group_size;
      source.scales =
          scales_.data() + first * static_cast<int64_t>(dtype_bytes(shape_.scale_dtype));
      source.scale_dtype = shape_.scale_dtype;
      source.scale_row_stride = scale_stride();
      source.zeros = shape_.has_zeros ? zeros_.data() + first : nullptr;
      source.group_size = shape_.group_size;
      if (is_fp8) {
        source.scale_rows = shape_.scale_rows;
        source.scale_cols = shape_.scale_cols;
        source.first_row = row;
        source.first_col = col;
      }
    }
    return source;
  }
  MatrixSource source() const { return slice(0, shape_.num_rows, 0, shape_.num_cols); }
  MatrixSpec spec(int64_t num_lanes = 1, const float* bias = nullptr) const {
    MatrixSpec spec;
    spec.sources = {source()};
    spec.num_lanes = num_lanes;
    spec.bias = bias;
    return spec;
  }

 private:
  int64_t scale_stride() const { return shape_.num_cols / shape_.group_size + 3; }

  void fill_scales(std::mt19937& random) {
    std::uniform_real_distribution<float> uniform(0.001F, 0.02F);
    const auto count = static_cast<size_t>(shape_.num_rows * scale_stride());
    scales_.resize(count * dtype_bytes(shape_.scale_dtype));
    zeros_.resize(count);
    const uint32_t num_zeros = shape_.format == WeightFormat::kW8 ? 256 : 16;
    for (size_t i = 0; i < count; ++i) {
      const float scale = uniform(random);
      zeros_[i] = static_cast<uint8_t>(random() % num_zeros);
      if (shape_.scale_dtype == DType::kF32) {
        std::memcpy(scales_.data() + i * 4, &scale, 4);
      } else {
        const uint16_t bits =
            shape_.scale_dtype == DType::kF16 ? f32_to_f16(scale) : f32_to_bf16(scale);
        std::memcpy(scales_.data() + i * 2, &bits, 2);
      }
    }
  }

  StoredMatrixShape shape_;
  int64_t row_bytes_ = 0;
  std::vector<std::byte> codes_;
  std::vector<std::byte> scales_;
  std::vector<uint8_t> zeros_;
};

inline std::vector<float> random_floats(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

/// An ActivationView with its memory.
struct OwnedActivation {
  OwnedActivation(ActivationForm form, int64_t num_rows, int64_t num_cols, int64_t group_size)
      : memory(cpu::allocate_zeroed(activation_bytes(form, num_rows, num_cols, group_size))),
        view(make_activation_view(form, num_rows, num_cols, group_size, memory.get())) {}
  std::shared_ptr<std::byte> memory;
  ActivationView view;
};

}  // namespace phalanx::kernels::test
