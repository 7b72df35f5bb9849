// Element types of tensors in files, graphs and buffers, and exact bf16, f16 and e4m3 conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace phalanx {

/// kF8E4M3: OCP e4m3fn, 1 sign, 4 exponent (bias 7) and 3 mantissa bits; no infinities.
enum class DType : uint8_t { kF32, kF16, kBf16, kI8, kU8, kI32, kF8E4M3 };

constexpr size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBf16:
      return 2;
    case DType::kI8:
    case DType::kU8:
    case DType::kF8E4M3:
      return 1;
  }
  return 0;
}

/// "f32", "f16", "bf16", "i8", "u8", "i32", "f8_e4m3".
const char* dtype_name(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);

constexpr float bf16_to_f32(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// Round to nearest, ties to even; NaN stays NaN (quiet).
constexpr uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t quiet_nan = (bits >> 16) | 0x40U;
  const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded);
}

constexpr float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fU;
  uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 0x1fU) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
  if (mantissa == 0) return std::bit_cast<float>(sign);
  uint32_t shift = 0;
  while ((mantissa & 0x400U) == 0) {
    mantissa <<= 1;
    ++shift;
  }
  return std::bit_cast<float>(sign | ((113U - shift) << 23) | ((mantissa & 0x3ffU) << 13));
}

/// Round to nearest, ties to even; overflow becomes infinity; NaN stays NaN.
uint16_t f32_to_f16(float value);

inline constexpr float kE4m3Max = 448.0F;

/// Exact. Codes 0x7f and 0xff are NaN.
constexpr float e4m3_to_f32(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80U) << 24;
  const uint32_t magnitude = code & 0x7fU;
  if (magnitude == 0x7fU) return std::bit_cast<float>(sign | 0x7fc00000U);
  if (magnitude >= 8) return std::bit_cast<float>(sign | ((magnitude << 20) + (120U << 23)));
  const float value = static_cast<float>(magnitude) * 0x1p-9F;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

/// Round to nearest, ties to even; beyond 448, and so infinity, becomes 448 of its sign; the sign
/// of what rounds to zero is kept; every NaN becomes 0x7f.
constexpr uint8_t f32_to_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return 0x7f;
  const uint32_t sign = (bits >> 24) & 0x80U;
  if (magnitude >= 0x43e00000U) return static_cast<uint8_t>(sign | 0x7eU);  // 448
  if (magnitude >= 0x3c800000U) {                                           // 2^-6: normal
    const uint32_t rounded = magnitude + 0x7ffffU + ((magnitude >> 20) & 1U);
    return static_cast<uint8_t>(sign | ((rounded >> 20) - (120U << 3)));
  }
  // An ulp of 2^14 is 2^-9: adding it rounds to whole subnormal steps.
  const float sum = std::bit_cast<float>(magnitude) + 0x1p14F;
  return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(sum) & 0xffU));
}

}  // namespace phalanx
