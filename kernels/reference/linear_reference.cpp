// Scalar matrix products, activation conversion and embedding: the oracle of kernels/cpu.
// Called by reference_operators and by tests.
#include "kernels/reference/linear_reference.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/bf16_fma.h"
#include "kernels/operator_checks.h"
#include "runtime/base/check.h"
#include "runtime/base/dtype.h"

namespace phalanx::kernels::reference {
namespace {

template <typename T>
T load(const std::byte* from, int64_t index) {
  T value;
  std::memcpy(&value, from + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

int32_t load_code(WeightFormat format, const std::byte* row, int64_t k) {
  if (format == WeightFormat::kW8) return std::to_integer<int32_t>(row[k]);
  return (std::to_integer<int32_t>(row[k / 2]) >> (4 * (k % 2))) & 15;
}

float load_scale(const MatrixSource& source, int64_t n, int64_t group) {
  const int64_t index = scale_index(source, n, group);
  switch (source.scale_dtype) {
    case DType::kF32:
      return load<float>(source.scales, index);
    case DType::kF16:
      return f16_to_f32(load<uint16_t>(source.scales, index));
    case DType::kBf16:
      return bf16_to_f32(load<uint16_t>(source.scales, index));
    case DType::kI8:
    case DType::kU8:
    case DType::kI32:
    case DType::kF8E4M3:
      break;
  }
  PHALANX_CHECK(false, "scale_dtype must be f32, f16 or bf16");
}

int32_t load_zero(const MatrixSource& source, int64_t n, int64_t group) {
  if (source.zeros == nullptr) return source.format == WeightFormat::kW8 ? 128 : 8;
  return source.zeros[n * source.scale_row_stride + group];
}

/// The stacked rows, copied one after the other in the natural layout.
class NaturalMatrix final : public PackedMatrix {
 public:
  explicit NaturalMatrix(const MatrixSpec& spec) {
    PHALANX_CHECK(!spec.sources.empty(), "a matrix needs a source");
    const MatrixSource& first = spec.sources.front();
    format_ = first.format;
    num_cols_ = first.num_cols;
    num_lanes_ = spec.num_lanes;
    PHALANX_CHECK(num_lanes_ >= 1 && std::has_single_bit(static_cast<uint64_t>(num_lanes_)),
                  "num_lanes must be a power of two");
    PHALANX_CHECK_EQ(num_cols_ % num_lanes_, 0, "num_lanes must divide num_cols");
    if (is_quantized(format_)) {
      group_size_ = first.group_size;
      PHALANX_CHECK(group_size_ > 0 && group_size_ % 8 == 0, "group_size must be a multiple of 8");
      PHALANX_CHECK_EQ(num_cols_ / num_lanes_ % group_size_, 0, "group_size must divide a lane");
    }
    for (const MatrixSource& source : spec.sources) {
      PHALANX_CHECK(source.format == format_ && source.num_cols == num_cols_ &&
                        (!is_quantized(format_) || source.group_size == group_size_),
                    "stacked sources must agree in format, num_cols and group_size");
      check_scale_blocks(source);
      for (int64_t n = 0; n < source.num_rows; ++n) append_row(source, n);
      num_rows_ += source.num_rows;
    }
    if (spec.bias != nullptr) bias_.assign(spec.bias, spec.bias + num_rows_);
    bytes_ = static_cast<int64_t>(codes_.size() + zeros_.size() * sizeof(int32_t) +
                                  (scales_.size() + bias_.size()) * sizeof(float));
  }

  const std::byte* row(int64_t n) const {
    return codes_.data() + n * weight_row_bytes(format_, num_cols_);
  }
  float scale(int64_t n, int64_t group) const { return scales_[index(n, group)]; }
  int32_t zero(int64_t n, int64_t group) const { return zeros_[index(n, group)]; }
  const float* bias() const { return bias_.empty() ? nullptr : bias_.data(); }

 private:
  size_t index(int64_t n, int64_t group) const {
    return static_cast<size_t>(n * (num_cols_ / group_size_) + group);
  }

  void append_row(const MatrixSource& source, int64_t n) {
    const std::byte* codes = source.codes + n * source.row_stride_bytes;
    codes_.insert(codes_.end(), codes, codes + weight_row_bytes(format_, num_cols_));
    if (!is_quantized(format_)) return;
    for (int64_t group = 0; group < num_cols_ / group_size_; ++group) {
      scales_.push_back(load_scale(source, n, group));
      if (is_integer(format_)) zeros_.push_back(load_zero(source, n, group));
    }
  }

  std::vector<std::byte> codes_;
  std::vector<float> scales_;
  std::vector<int32_t> zeros_;
  std::vector<float> bias_;
};

/// One lane [begin, end) of the product of row r and output n.
float lane_product(const NaturalMatrix& w, const ActivationView& x, int64_t r, int64_t n,
                   int64_t begin, int64_t end) {
  const std::byte* row = w.row(n);
  float s = 0.0F;
  switch (w.format()) {
    case WeightFormat::kF32: {
      for (int64_t k = begin; k < end; ++k)
        s = std::fma(load<float>(x.codes, r * x.num_cols + k), load<float>(row, k), s);
      return s;
    }
    case WeightFormat::kBf16: {
      const auto step = [&](int64_t k) {
        if (k >= end) return fma_flush_denormals(0.0F, 0.0F, s);
        return fma_flush_denormals(bf16_to_f32(load<uint16_t>(x.codes, r * x.num_cols + k)),
                                   bf16_to_f32(load<uint16_t>(row, k)), s);
      };
      for (int64_t k = begin; k < end; k += 2) {
        s = step(k + 1);
        s = step(k);
      }
      return s;
    }
    case WeightFormat::kW8:
    case WeightFormat::kW4: {
      const int64_t group_size = w.group_size();
      const int64_t num_groups = w.num_cols() / group_size;
      for (int64_t group = begin / group_size; group < end / group_size; ++group) {
        int64_t dot = 0;
        for (int64_t k = group * group_size; k < (group + 1) * group_size; ++k)
          dot += int64_t{load<int8_t>(x.codes, r * x.num_cols + k)} * load_code(w.format(), row, k);
        dot -= int64_t{w.zero(n, group)} * x.sums[r * num_groups + group];
        const float scale = x.scales[r * num_groups + group] * w.scale(n, group);
        s = std::fma(static_cast<float>(static_cast<int32_t>(dot)), scale, s);
      }
      return s;
    }
    case WeightFormat::kFp8: {
      const int64_t group_size = w.group_size();
      const int64_t num_groups = w.num_cols() / group_size;
      for (int64_t group = begin / group_size; group < end / group_size; ++group) {
        float dot = 0.0F;
        const auto step = [&](int64_t k) {
          dot = std::fma(e4m3_to_f32(load<uint8_t>(x.codes, r * x.num_cols + k)),
                         e4m3_to_f32(load<uint8_t>(row, k)), dot);
        };
        for (int64_t k = group * group_size; k < (group + 1) * group_size; k += 2) {
          step(k + 1);
          step(k);
        }
        s = std::fma(dot, x.scales[r * num_groups + group] * w.scale(n, group), s);
      }
      return s;
    }
  }
  return s;
}

/// |x|'s largest; NaN when there is one.
float largest_magnitude(const float* x, int64_t count) {
  uint32_t max_bits = 0;  // as integers they order like the floats, NaN above all
  for (int64_t k = 0; k < count; ++k)
    max_bits = std::max(max_bits, std::bit_cast<uint32_t>(x[k]) & 0x7fffffffU);
  return std::bit_cast<float>(max_bits);
}

void quantize_group_e4m3(const float* x, int64_t count, uint8_t* codes, float& scale) {
  scale = largest_magnitude(x, count) / kE4m3Max;
  if (scale < FLT_MIN) {
    scale = 0.0F;
    std::fill_n(codes, count, uint8_t{0});
    return;
  }
  const float inverse = 1.0F / scale;
  for (int64_t k = 0; k < count; ++k) {
    const float scaled = x[k] * inverse;
    codes[k] = std::isnan(scaled) ? 0x7e : f32_to_e4m3(scaled);
  }
}

void quantize_group(const float* x, int64_t count, int8_t* codes, float& scale, int32_t& sum) {
  scale = largest_magnitude(x, count) / 127.0F;
  sum = 0;
  if (scale < FLT_MIN) {
    scale = 0.0F;
    std::fill_n(codes, count, int8_t{0});
    return;
  }
  const float inverse = 1.0F / scale;
  for (int64_t k = 0; k < count; ++k) {
    const float scaled = x[k] * inverse;
    int32_t code = 127;  // what NaN becomes
    if (scaled < 127.0F) code = static_cast<int32_t>(std::nearbyint(std::max(scaled, -127.0F)));
    codes[k] = static_cast<int8_t>(code);
    sum += code;
  }
}

}  // namespace

std::unique_ptr<PackedMatrix> pack_matrix(const MatrixSpec& spec) {
  return std::make_unique<NaturalMatrix>(spec);
}

void linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows, Rows y) {
  const auto* matrix = dynamic_cast<const NaturalMatrix*>(&w);
  PHALANX_CHECK(matrix != nullptr, "the matrix was packed by another backend");
  const int64_t num_lanes = w.num_lanes();
  const int64_t lane_cols = w.num_cols() / num_lanes;
  std::vector<float> lanes(static_cast<size_t>(num_lanes));
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t n = 0; n < w.num_rows(); ++n) {
      for (int64_t lane = 0; lane < num_lanes; ++lane)
        lanes[static_cast<size_t>(lane)] =
            lane_product(*matrix, x, r, n, lane * lane_cols, (lane + 1) * lane_cols);
      for (size_t left = lanes.size() / 2; left > 0; left /= 2)
        for (size_t i = 0; i < left; ++i) lanes[i] = lanes[2 * i] + lanes[2 * i + 1];
      y.data[r * y.stride + n] =
          matrix->bias() == nullptr ? lanes[0] : lanes[0] + matrix->bias()[n];
    }
  }
}

void convert_rows(ConstRows x, int64_t num_rows, const ActivationView& out) {
  for (int64_t r = 0; r < num_rows; ++r) {
    const float* row = x.data + r * x.stride;
    switch (out.form) {
      case ActivationForm::kF32:
        std::memcpy(out.codes + r * out.num_cols * 4, row, static_cast<size_t>(out.num_cols) * 4);
        break;
      case ActivationForm::kBf16:
        for (int64_t k = 0; k < out.num_cols; ++k) {
          const uint16_t code = f32_to_bf16(row[k]);
          std::memcpy(out.codes + (r * out.num_cols + k) * 2, &code, 2);
        }
        break;
      case ActivationForm::kS8: {
        const int64_t num_groups = out.num_cols / out.group_size;
        for (int64_t group = 0; group < num_groups; ++group) {
          const int64_t k = group * out.group_size;
          quantize_group(row + k, out.group_size,
                         reinterpret_cast<int8_t*>(out.codes) + r * out.num_cols + k,
                         out.scales[r * num_groups + group], out.sums[r * num_groups + group]);
        }
        break;
      }
      case ActivationForm::kE4m3: {
        const int64_t num_groups = out.num_cols / out.group_size;
        for (int64_t group = 0; group < num_groups; ++group) {
          const int64_t k = group * out.group_size;
          quantize_group_e4m3(row + k, out.group_size,
                              reinterpret_cast<uint8_t*>(out.codes) + r * out.num_cols + k,
                              out.scales[r * num_groups + group]);
        }
        break;
      }
    }
  }
}

void embedding(const MatrixSource& table, std::span<const int32_t> token_ids, Rows y) {
  for (size_t r = 0; r < token_ids.size(); ++r) {
    const int64_t n = token_ids[r];
    const std::byte* row = table.codes + n * table.row_stride_bytes;
    float* out = y.data + static_cast<int64_t>(r) * y.stride;
    for (int64_t k = 0; k < table.num_cols; ++k) {
      switch (table.format) {
        case WeightFormat::kF32:
          out[k] = load<float>(row, k);
          break;
        case WeightFormat::kBf16:
          out[k] = bf16_to_f32(load<uint16_t>(row, k));
          break;
        case WeightFormat::kW8:
        case WeightFormat::kW4: {
          const int64_t group = k / table.group_size;
          out[k] =
              static_cast<float>(load_code(table.format, row, k) - load_zero(table, n, group)) *
              load_scale(table, n, group);
          break;
        }
        case WeightFormat::kFp8:
          out[k] = e4m3_to_f32(load<uint8_t>(row, k)) * load_scale(table, n, k / table.group_size);
          break;
      }
    }
  }
}

}  // namespace phalanx::kernels::reference
