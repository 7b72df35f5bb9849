// One multiply-add of a bf16 chain in plain C++, with the bits of vdpbf16ps.
// Called by the portable tier of linear and by its oracle.
#pragma once

#include <cfloat>
#include <cmath>

namespace phalanx::kernels {

/// fma(a, b, s) with denormal inputs and a denormal result flushed to zero of their sign. A result
/// is denormal if it would be below FLT_MIN after rounding to 24 bits with any exponent (x86's
/// FTZ).
inline float fma_flush_denormals(float a, float b, float s) {
  const auto flush = [](float v) { return std::fabs(v) < FLT_MIN ? std::copysign(0.0F, v) : v; };
  a = flush(a);
  b = flush(b);
  s = flush(s);
  const float result = std::fma(a, b, s);
  if (std::fabs(result) != FLT_MIN) return flush(result);
  // Rounded up to FLT_MIN on the denormals' coarser grid? a * b is exact in double; the error of
  // the addition is recovered (two-sum), so the comparison below is exact.
  const double product = static_cast<double>(a) * b;
  const double sum = product + s;
  const double addend = sum - product;
  const double error = (product - (sum - addend)) + (s - addend);
  const double sign = result < 0 ? -1.0 : 1.0;
  constexpr double kTinyBelow = static_cast<double>(FLT_MIN) * (1.0 - 0x1p-25);
  const bool tiny = sign * sum < kTinyBelow || (sign * sum == kTinyBelow && sign * error < 0);
  return tiny ? std::copysign(0.0F, result) : result;
}

}  // namespace phalanx::kernels
