// RTN for w8, w4 and fp8, and plain conversions.
#include "runtime/builder/quantizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "runtime/base/check.h"

namespace phalanx::builder {

namespace {

// Below this a group is as good as zero, and 1/scale would overflow.
constexpr float kSmallestMagnitude = 0x1p-100F;

// w4 grids to try, as (largest magnitude in the group) / scale. The side of the largest element
// gets 8 codes: +7 side at 7, or mirrored by a negative scale. Values above 8 clip the largest
// element, which pays when it is alone.
constexpr float kScaleCandidates[] = {7.0F, 7.5F, 8.0F, 8.5F, 9.0F, 9.75F, 10.5F};

float max_magnitude(std::span<const float> weights) {
  float largest = 0;
  for (float w : weights) largest = std::max(largest, std::fabs(w));
  return largest;
}

/// Rounds half to even without touching the environment's rounding mode; |x| < 2^22.
inline float round_half_even(float x) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: adding it drops the fraction bits
  return (x + kMagic) - kMagic;
}

inline float code_of(float w, float inverse_scale, float low, float high) {
  const float scaled = std::clamp(w * inverse_scale, low - 1.0F, high + 1.0F);
  return std::clamp(round_half_even(scaled), low, high);
}

/// Sum of squared errors in a fixed order of eight chains, so that it vectorizes. Errors are
/// multiplied by `unit`, a power of two, so that squares of huge or tiny weights neither overflow
/// nor vanish. Infinite when code * scale overflows for some weight.
float squared_error(std::span<const float> weights, float scale, float unit) {
  const float inverse = 1.0F / scale;
  float chains[8] = {};
  const size_t whole = weights.size() / 8 * 8;
  for (size_t i = 0; i < whole; i += 8) {
    for (size_t j = 0; j < 8; ++j) {
      const float w = weights[i + j];
      const float error = (w - code_of(w, inverse, -8.0F, 7.0F) * scale) * unit;
      chains[j] += error * error;
    }
  }
  float sum = ((chains[0] + chains[1]) + (chains[2] + chains[3])) +
              ((chains[4] + chains[5]) + (chains[6] + chains[7]));
  for (size_t i = whole; i < weights.size(); ++i) {
    const float error = (weights[i] - code_of(weights[i], inverse, -8.0F, 7.0F) * scale) * unit;
    sum += error * error;
  }
  return sum;
}

}  // namespace

void widen_elements(const std::byte* source, DType dtype, int64_t count, float* out) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, source, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBf16:
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) {
        uint16_t bits = 0;
        std::memcpy(&bits, source + i * 2, sizeof(bits));
        out[i] = dtype == DType::kBf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
      }
      return;
    case DType::kI8:
    case DType::kU8:
    case DType::kI32:
    case DType::kF8E4M3:
      break;
  }
  PHALANX_CHECK(false, std::string("weights of dtype ") + dtype_name(dtype));
}

int64_t first_non_finite(std::span<const float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) return static_cast<int64_t>(i);
  }
  return -1;
}

uint16_t quantize_group_w8(std::span<const float> weights, uint8_t* codes) {
  const float largest = max_magnitude(weights);
  if (largest < kSmallestMagnitude) {
    std::memset(codes, 128, weights.size());
    return 0;
  }
  uint16_t scale_bits = f32_to_bf16(largest / 127.0F);
  if (!std::isfinite(127.0F * bf16_to_f32(scale_bits))) --scale_bits;  // one step down
  const float inverse = 1.0F / bf16_to_f32(scale_bits);
  for (size_t i = 0; i < weights.size(); ++i)
    codes[i] = static_cast<uint8_t>(128.0F + code_of(weights[i], inverse, -127.0F, 127.0F));
  return scale_bits;
}

uint16_t quantize_group_w4(std::span<const float> weights, uint8_t* codes) {
  const float largest = max_magnitude(weights);
  if (largest < kSmallestMagnitude) {
    std::memset(codes, 8, weights.size());
    return 0;
  }
  const float unit = std::ldexp(1.0F, -std::min(std::ilogb(largest), 126));
  uint16_t best_bits = 0;
  float best_error = INFINITY;
  for (float divisor : kScaleCandidates) {
    for (float sign : {1.0F, -1.0F}) {
      const uint16_t bits = f32_to_bf16(sign * largest / divisor);
      const float error = squared_error(weights, bf16_to_f32(bits), unit);
      if (error < best_error) {
        best_error = error;
        best_bits = bits;
      }
    }
  }
  // A grid above 8 clips, so that even FLT_MAX has a scale whose products are finite.
  PHALANX_CHECK(best_bits != 0, "a w4 scale for largest weight " + std::to_string(largest));
  const float inverse = 1.0F / bf16_to_f32(best_bits);
  for (size_t i = 0; i < weights.size(); ++i)
    codes[i] = static_cast<uint8_t>(8.0F + code_of(weights[i], inverse, -8.0F, 7.0F));
  return best_bits;
}

float quantize_block_fp8(const float* weights, int64_t num_rows, int64_t num_cols, int64_t stride,
                         uint8_t* codes) {
  float largest = 0;
  for (int64_t n = 0; n < num_rows; ++n)
    largest =
        std::max(largest, max_magnitude({weights + n * stride, static_cast<size_t>(num_cols)}));
  float scale = largest / kE4m3Max;
  if (largest < kSmallestMagnitude) scale = 0;
  if (!std::isfinite(kE4m3Max * scale)) scale = std::nextafter(scale, 0.0F);
  const float inverse = scale == 0 ? 0.0F : 1.0F / scale;
  for (int64_t n = 0; n < num_rows; ++n) {
    for (int64_t k = 0; k < num_cols; ++k) {
      const uint8_t code = f32_to_e4m3(weights[n * stride + k] * inverse);
      codes[n * stride + k] = (code & 0x7fU) == 0 ? 0 : code;
    }
  }
  return scale;
}

void encode_fp8_rows(const engine::Weight& weight, std::span<const float> rows, uint8_t* codes,
                     float* scales) {
  const int64_t cols = weight.cols();
  const auto num_rows = static_cast<int64_t>(rows.size()) / cols;
  for (int64_t n = 0; n < num_rows; n += weight.scale_rows())
    for (int64_t k = 0; k < cols; k += weight.scale_cols())
      *scales++ = quantize_block_fp8(
          rows.data() + n * cols + k, std::min(weight.scale_rows(), num_rows - n),
          std::min(weight.scale_cols(), cols - k), cols, codes + n * cols + k);
}

void encode_row(const engine::Weight& weight, std::span<const float> row, std::byte* codes,
                uint16_t* scales) {
  switch (weight.format()) {
    case engine::F32:
      std::memcpy(codes, row.data(), row.size_bytes());
      return;
    case engine::BF16:
      for (size_t i = 0; i < row.size(); ++i) {
        const uint16_t bits = f32_to_bf16(row[i]);
        std::memcpy(codes + i * 2, &bits, sizeof(bits));
      }
      return;
    case engine::W8: {
      const auto group = static_cast<size_t>(weight.group_size());
      for (size_t begin = 0, g = 0; begin < row.size(); begin += group, ++g)
        scales[g] =
            quantize_group_w8(row.subspan(begin, group), reinterpret_cast<uint8_t*>(codes) + begin);
      return;
    }
    case engine::W4: {
      const auto group = static_cast<size_t>(weight.group_size());
      std::vector<uint8_t> loose(group);
      for (size_t begin = 0, g = 0; begin < row.size(); begin += group, ++g) {
        scales[g] = quantize_group_w4(row.subspan(begin, group), loose.data());
        for (size_t i = 0; i < group; i += 2)
          codes[(begin + i) / 2] = static_cast<std::byte>(loose[i] | (loose[i + 1] << 4));
      }
      return;
    }
    case engine::FP8:  // by blocks of rows
    case engine::WeightFormat_INT_MIN_SENTINEL_DO_NOT_USE_:
    case engine::WeightFormat_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  PHALANX_CHECK(false, "weight format " + std::to_string(weight.format()));
}

void decode_row(const engine::Weight& weight, const std::byte* codes, const uint16_t* scales,
                std::span<float> row) {
  const auto group = static_cast<size_t>(std::max<int64_t>(weight.group_size(), 1));
  for (size_t i = 0; i < row.size(); ++i) {
    switch (weight.format()) {
      case engine::F32:
        std::memcpy(&row[i], codes + i * 4, sizeof(float));
        break;
      case engine::BF16: {
        uint16_t bits = 0;
        std::memcpy(&bits, codes + i * 2, sizeof(bits));
        row[i] = bf16_to_f32(bits);
        break;
      }
      case engine::W8:
        row[i] = static_cast<float>(std::to_integer<int>(codes[i]) - 128) *
                 bf16_to_f32(scales[i / group]);
        break;
      case engine::W4: {
        const int pair = std::to_integer<int>(codes[i / 2]);
        row[i] = static_cast<float>((i % 2 == 0 ? pair & 15 : pair >> 4) - 8) *
                 bf16_to_f32(scales[i / group]);
        break;
      }
      case engine::FP8:
      case engine::WeightFormat_INT_MIN_SENTINEL_DO_NOT_USE_:
      case engine::WeightFormat_INT_MAX_SENTINEL_DO_NOT_USE_:
        PHALANX_CHECK(false, "weight format " + std::to_string(weight.format()));
    }
  }
}

}  // namespace phalanx::builder
