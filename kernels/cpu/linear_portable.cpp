// Matrix products and activation conversion in plain C++: every processor runs it.
// Called by linear.cpp through portable_linear_tier.
#include <cfloat>
#include <cmath>
#include <cstring>

#include "kernels/bf16_fma.h"
#include "kernels/cpu/linear_loops.h"
#include "runtime/base/dtype.h"

namespace phalanx::kernels::cpu {
namespace {

template <typename T>
T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <int kRows>
void lane_f32(const LaneArgs& args) {
  for (int r = 0; r < kRows; ++r) {
    float* sums = args.tile + r * kTileCols;
    for (int n = 0; n < kTileCols; ++n) sums[n] = 0.0F;
    for (int64_t k = 0; k < args.num_units; ++k) {
      const float x = load<float>(args.x + r * args.x_row_bytes + k * 4);
      const uint8_t* w = args.w + k * kUnitRowBytes;
      for (int n = 0; n < kTileCols; ++n) sums[n] = std::fma(x, load<float>(w + n * 4), sums[n]);
    }
  }
}

template <int kRows>
void lane_bf16(const LaneArgs& args) {
  for (int r = 0; r < kRows; ++r) {
    float* sums = args.tile + r * kTileCols;
    for (int n = 0; n < kTileCols; ++n) sums[n] = 0.0F;
    for (int64_t k = 0; k < args.num_units; ++k) {
      const uint8_t* pair = args.x + r * args.x_row_bytes + k * 4;
      const float even = bf16_to_f32(load<uint16_t>(pair));
      const bool lone = args.odd_lane && k + 1 == args.num_units;
      const float odd = lone ? 0.0F : bf16_to_f32(load<uint16_t>(pair + 2));
      const uint8_t* w = args.w + k * kUnitRowBytes;
      for (int n = 0; n < kTileCols; ++n) {
        const float s =
            fma_flush_denormals(odd, bf16_to_f32(load<uint16_t>(w + n * 4 + 2)), sums[n]);
        sums[n] = fma_flush_denormals(even, bf16_to_f32(load<uint16_t>(w + n * 4)), s);
      }
    }
  }
}

/// dots[n] = sum over the group of x * code - zero * sum_x, modulo 2^32 on the way.
template <bool kW4>
void group_dots(const LaneArgs& args, const uint8_t* header, const uint8_t* x, int32_t sum,
                uint32_t* dots) {
  for (int n = 0; n < kTileCols; ++n) {
    const uint32_t zero = args.has_zeros ? header[kUnitRowBytes + n] : (kW4 ? 8U : 128U);
    dots[n] = 0U - zero * static_cast<uint32_t>(sum);
  }
  const uint8_t* w = header + args.header_bytes;
  for (int64_t unit = 0; unit < args.num_units; ++unit, w += kUnitRowBytes) {
    int32_t codes[8];
    for (int i = 0; i < (kW4 ? 8 : 4); ++i)
      codes[i] = static_cast<int8_t>(x[unit * (kW4 ? 8 : 4) + i]);
    for (int n = 0; n < kTileCols; ++n) {
      int32_t dot = 0;
      for (int i = 0; i < 4; ++i) {
        const int32_t code = w[n * 4 + i];
        dot += kW4 ? codes[i] * (code & 15) + codes[i + 4] * (code >> 4) : codes[i] * code;
      }
      dots[n] += static_cast<uint32_t>(dot);
    }
  }
}

template <int kRows, bool kW4>
void lane_quantized(const LaneArgs& args) {
  const int64_t group_cols = args.num_units * (kW4 ? 8 : 4);
  for (int r = 0; r < kRows; ++r) {
    float* sums = args.tile + r * kTileCols;
    for (int n = 0; n < kTileCols; ++n) sums[n] = 0.0F;
    for (int64_t group = 0; group < args.num_groups; ++group) {
      const uint8_t* header = args.w + group * args.group_bytes;
      uint32_t dots[kTileCols];
      group_dots<kW4>(args, header, args.x + r * args.x_row_bytes + group * group_cols,
                      args.x_sums[r * args.x_groups + group], dots);
      const float x_scale = args.x_scales[r * args.x_groups + group];
      for (int n = 0; n < kTileCols; ++n)
        sums[n] = std::fma(static_cast<float>(static_cast<int32_t>(dots[n])),
                           x_scale * load<float>(header + n * 4), sums[n]);
    }
  }
}

struct E4m3Values {
  float of_code[256];
};
constexpr E4m3Values make_e4m3_values() {
  E4m3Values values{};
  for (int code = 0; code < 256; ++code)
    values.of_code[code] = e4m3_to_f32(static_cast<uint8_t>(code));
  return values;
}
constexpr E4m3Values kE4m3Values = make_e4m3_values();

/// A unit's codes of all outputs, widened once for all rows of the tile: values[i] are codes i.
void widen_unit(const uint8_t* w, float (&values)[4][kTileCols]) {
  for (int n = 0; n < kTileCols; ++n) {
    const uint8_t* pair = w + n / 4 * 16 + n % 4 * 2;
    values[0][n] = kE4m3Values.of_code[pair[0]];
    values[1][n] = kE4m3Values.of_code[pair[1]];
    values[2][n] = kE4m3Values.of_code[pair[8]];
    values[3][n] = kE4m3Values.of_code[pair[9]];
  }
}

/// A product of two codes is exact, so that multiplying and adding is fma.
template <int kRows>
void lane_fp8(const LaneArgs& args) {
  const int64_t group_cols = args.num_units * 4;
  for (int i = 0; i < kRows * kTileCols; ++i) args.tile[i] = 0.0F;
  for (int64_t group = 0; group < args.num_groups; ++group) {
    const uint8_t* header = args.w + group * args.group_bytes;
    float dots[kRows][kTileCols] = {};
    for (int64_t unit = 0; unit < args.num_units; ++unit) {
      float values[4][kTileCols];
      widen_unit(header + args.header_bytes + unit * kUnitRowBytes, values);
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* x = args.x + r * args.x_row_bytes + group * group_cols + unit * 4;
        for (const int i : {1, 0, 3, 2}) {  // pairs, the odd code first
          const float code = kE4m3Values.of_code[x[i]];
          for (int n = 0; n < kTileCols; ++n) dots[r][n] += code * values[i][n];
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const float x_scale = args.x_scales[r * args.x_groups + group];
      float* sums = args.tile + r * kTileCols;
      for (int n = 0; n < kTileCols; ++n)
        sums[n] = std::fma(dots[r][n], x_scale * load<float>(header + n * 4), sums[n]);
    }
  }
}

void convert_bf16(const ConvertTask& task) {
  for (int64_t r = task.row_begin; r < task.row_end; ++r) {
    const float* x = task.x + r * task.x_stride;
    uint8_t* out = task.codes + r * task.codes_stride;
    for (int64_t k = 0; k < task.num_cols; ++k) {
      const uint16_t code = f32_to_bf16(x[k]);
      std::memcpy(out + k * 2, &code, 2);
    }
  }
}

/// NaN when there is one.
float largest_magnitude(const float* x, int64_t count) {
  uint32_t max_bits = 0;  // of |x|: as integers NaN is above all
  for (int64_t k = 0; k < count; ++k) {
    uint32_t bits;
    std::memcpy(&bits, x + k, 4);
    bits &= 0x7fffffffU;
    max_bits = bits > max_bits ? bits : max_bits;
  }
  float max;
  std::memcpy(&max, &max_bits, 4);
  return max;
}

void convert_e4m3_group(const float* x, int64_t count, uint8_t* codes, float* scale_out) {
  const float scale = largest_magnitude(x, count) / kE4m3Max;
  if (scale < FLT_MIN) {
    *scale_out = 0.0F;
    std::memset(codes, 0, static_cast<size_t>(count));
    return;
  }
  const float inverse = 1.0F / scale;
  for (int64_t k = 0; k < count; ++k) {
    const float scaled = x[k] * inverse;
    codes[k] = f32_to_e4m3(scaled < kE4m3Max ? scaled : kE4m3Max);  // NaN becomes 448
  }
  *scale_out = scale;
}

void convert_group(const float* x, int64_t count, uint8_t* codes, float* scale_out,
                   int32_t* sum_out) {
  float scale = largest_magnitude(x, count) / 127.0F;
  float inverse = 1.0F / scale;
  if (scale < FLT_MIN) scale = inverse = 0.0F;
  int32_t sum = 0;
  for (int64_t k = 0; k < count; ++k) {
    float scaled = x[k] * inverse;
    scaled = scaled < 127.0F ? scaled : 127.0F;
    scaled = scaled > -127.0F ? scaled : -127.0F;
    // Adding 1.5 * 2^23 leaves no fraction bits: round half to even, without a library call.
    const int32_t code = static_cast<int32_t>((scaled + 12582912.0F) - 12582912.0F);
    codes[k] = static_cast<uint8_t>(code);
    sum += code;
  }
  *scale_out = scale;
  *sum_out = sum;
}

}  // namespace
}  // namespace phalanx::kernels::cpu

#include "kernels/cpu/linear_four_rows.h"

namespace phalanx::kernels::cpu {

const LinearTier* portable_linear_tier() { return &kFourRowTier; }

}  // namespace phalanx::kernels::cpu
