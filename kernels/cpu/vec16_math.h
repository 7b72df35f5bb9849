// The CPU backend's one exp, as a fixed sequence of Vec16 operations. Included only by tier files
// (*_portable.cpp, *_avx2.cpp, *_avx512.cpp), after their vec16_*.h.
#pragma once

namespace phalanx::kernels::cpu {
namespace {

/// e^x with an error below 1 ulp (tests/kernels/cpu/row_kernels_test.cpp measures it) and exp(0)
/// = 1. Results below the smallest normal float are 0; above the largest, infinity; NaN stays NaN.
///
/// x = n ln2 + r with |r| <= ln2/2: n by adding and taking away 1.5 * 2^23, whose bit pattern then
/// holds n in its low bits; ln2 in two parts; a degree-6 polynomial fitted for relative error
/// (3e-9); n is added to the exponent field, which cannot overflow within the two bounds.
inline Vec16 exp(const Vec16& x) {
  constexpr float kLowest = -0x1.5d58ap+6F;   // -87.33655: from here down the result is not normal
  constexpr float kHighest = 0x1.62e42ep+6F;  // 88.72283: the result is still finite
  const Vec16 rounder = Vec16::broadcast(0x1.8p+23F);
  const Vec16 shifted = fma(x, Vec16::broadcast(0x1.715476p+0F), rounder);
  const Vec16 n = shifted - rounder;
  Vec16 r = fma(n, Vec16::broadcast(-0x1.62e43p-1F), x);
  r = fma(n, Vec16::broadcast(0x1.05c61p-29F), r);
  Vec16 p = Vec16::broadcast(0x1.6a241ep-10F);
  p = fma(p, r, Vec16::broadcast(0x1.1239e6p-7F));
  p = fma(p, r, Vec16::broadcast(0x1.5558f2p-5F));
  p = fma(p, r, Vec16::broadcast(0x1.555492p-3F));
  p = fma(p, r, Vec16::broadcast(0x1.fffffcp-2F));
  p = fma(p, r, Vec16::broadcast(1.0F));
  p = fma(p, r, Vec16::broadcast(1.0F));
  const Vec16 y = add_to_exponent(p, shifted);
  // Infinity above the bound; adding it also keeps NaN, for which no comparison holds.
  const Vec16 upper =
      select_le(x, Vec16::broadcast(kHighest), y, x + Vec16::broadcast(__builtin_inff()));
  return select_le(x, Vec16::broadcast(kLowest), Vec16::zero(), upper);
}

}  // namespace
}  // namespace phalanx::kernels::cpu
