// Vec16, sixteen f32 lanes, as one AVX-512 register. Included only by *_avx512.cpp.
// The interface and its meaning are documented in vec16_portable.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace phalanx::kernels::cpu {
namespace {

struct Vec16 {
  static constexpr int kMaxAccumulators = 16;

  __m512 all;

  static Vec16 zero() { return {_mm512_setzero_ps()}; }
  static Vec16 broadcast(float value) { return {_mm512_set1_ps(value)}; }
  static Vec16 load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Vec16 load_first(const float* from, int64_t n) {
    return {_mm512_maskz_loadu_ps(first_lanes(n), from)};
  }
  static Vec16 load_pairs(const uint16_t* from) {
    return {_mm512_castsi512_ps(_mm512_loadu_si512(from))};
  }
  static Vec16 broadcast_pair(uint32_t pair) {
    return {_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(pair)))};
  }

  void store(float* to) const { _mm512_storeu_ps(to, all); }
  void store_first(float* to, int64_t n) const { _mm512_mask_storeu_ps(to, first_lanes(n), all); }
  void store_bf16(uint16_t* to) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(all), 16)));
  }

  float sum() const {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  float maximum() const {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  float largest_magnitude() const {
    const __m512i magnitudes =
        _mm512_and_si512(_mm512_castps_si512(all), _mm512_set1_epi32(0x7fffffff));
    return __builtin_bit_cast(float, _mm512_reduce_max_epu32(magnitudes));
  }

 private:
  static __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1U << n) - 1U); }
};

inline Vec16 operator+(const Vec16& a, const Vec16& b) { return {_mm512_add_ps(a.all, b.all)}; }
inline Vec16 operator-(const Vec16& a, const Vec16& b) { return {_mm512_sub_ps(a.all, b.all)}; }
inline Vec16 operator*(const Vec16& a, const Vec16& b) { return {_mm512_mul_ps(a.all, b.all)}; }
inline Vec16 operator/(const Vec16& a, const Vec16& b) { return {_mm512_div_ps(a.all, b.all)}; }
inline Vec16 fma(const Vec16& a, const Vec16& b, const Vec16& c) {
  return {_mm512_fmadd_ps(a.all, b.all, c.all)};
}
inline Vec16 dot_pairs(const Vec16& s, const Vec16& a, const Vec16& b) {
  return {_mm512_dpbf16_ps(s.all, (__m512bh)_mm512_castps_si512(a.all),
                           (__m512bh)_mm512_castps_si512(b.all))};
}
inline Vec16 first_of_pairs(const Vec16& a) {
  return {_mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(a.all), _mm512_set1_epi32(0x0000ffff)))};
}
inline Vec16 second_of_pairs(const Vec16& a) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.all),
                                               _mm512_set1_epi32(static_cast<int>(0xffff0000U))))};
}
/// Bit patterns rounded to nearest even at bit 16, by integer arithmetic, as vcvtneps2bf16 would
/// flush denormals; NaN stays NaN. What the low halves hold means nothing.
inline __m512i round_high_halves(__m512i bits) {
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __mmask16 is_nan = _mm512_cmpgt_epu32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  return _mm512_mask_mov_epi32(rounded, is_nan, quiet);
}
inline Vec16 rounded_to_bf16(const Vec16& a) {
  return second_of_pairs({_mm512_castsi512_ps(round_high_halves(_mm512_castps_si512(a.all)))});
}
/// vdpbf16ps flushes by itself.
struct FlushScope {
  FlushScope() {}
  ~FlushScope() {}
};
inline Vec16 max(const Vec16& a, const Vec16& b) { return {_mm512_max_ps(a.all, b.all)}; }
inline Vec16 min(const Vec16& a, const Vec16& b) { return {_mm512_min_ps(a.all, b.all)}; }
inline Vec16 negate(const Vec16& a) { return {_mm512_xor_ps(a.all, _mm512_set1_ps(-0.0F))}; }
inline Vec16 max_magnitude(const Vec16& a, const Vec16& b) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  return {_mm512_castsi512_ps(
      _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a.all), magnitude),
                       _mm512_and_si512(_mm512_castps_si512(b.all), magnitude)))};
}
inline Vec16 select_le(const Vec16& a, const Vec16& b, const Vec16& yes, const Vec16& no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.all, b.all, _CMP_LE_OQ), no.all, yes.all)};
}
inline Vec16 add_to_exponent(const Vec16& p, const Vec16& t) {
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p.all),
                                               _mm512_slli_epi32(_mm512_castps_si512(t.all), 23)))};
}

struct IntVec16 {
  __m512i all;

  static IntVec16 zero() { return {_mm512_setzero_si512()}; }
  static IntVec16 broadcast(int32_t value) { return {_mm512_set1_epi32(value)}; }
  static IntVec16 load_quads(const std::byte* from) { return {_mm512_loadu_si512(from)}; }
  static IntVec16 broadcast_quad(const int8_t* from) {
    int32_t quad;
    __builtin_memcpy(&quad, from, sizeof(quad));
    return broadcast(quad);
  }

  void store_low_bytes(int8_t* to) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(all));
  }
  void store_byte_planes(int8_t* to) const {
    const __m256i planes = _mm256_set_epi8(14, 12, 10, 8, 15, 13, 11, 9, 6, 4, 2, 0, 7, 5, 3, 1, 14,
                                           12, 10, 8, 15, 13, 11, 9, 6, 4, 2, 0, 7, 5, 3, 1);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_shuffle_epi8(_mm512_cvtepi32_epi16(all), planes));
  }
  int32_t sum() const {
    const __m256i eight =
        _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    const __m128i four =
        _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
  }
};

inline IntVec16 operator+(const IntVec16& a, const IntVec16& b) {
  return {_mm512_add_epi32(a.all, b.all)};
}
inline IntVec16 operator-(const IntVec16& a, const IntVec16& b) {
  return {_mm512_sub_epi32(a.all, b.all)};
}
inline IntVec16 operator&(const IntVec16& a, const IntVec16& b) {
  return {_mm512_and_si512(a.all, b.all)};
}
template <int kBits>
IntVec16 shift_left(const IntVec16& a) {
  return {_mm512_slli_epi32(a.all, kBits)};
}
inline IntVec16 dot_quads(const IntVec16& sum, const IntVec16& u, const IntVec16& s) {
  return {_mm512_dpbusd_epi32(sum.all, u.all, s.all)};
}
inline Vec16 to_f32(const IntVec16& a) { return {_mm512_cvtepi32_ps(a.all)}; }
inline IntVec16 bits_of(const Vec16& a) { return {_mm512_castps_si512(a.all)}; }

}  // namespace
}  // namespace phalanx::kernels::cpu
