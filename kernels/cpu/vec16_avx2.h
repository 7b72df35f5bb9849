// Vec16, sixteen f32 lanes, as two AVX2 registers. Included only by *_avx2.cpp.
// The interface and its meaning are documented in vec16_portable.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace phalanx::kernels::cpu {
namespace {

struct Vec16 {
  static constexpr int kMaxAccumulators = 4;

  __m256 low;
  __m256 high;

  static Vec16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec16 broadcast(float value) {
    const __m256 v = _mm256_set1_ps(value);
    return {v, v};
  }
  static Vec16 load(const float* from) {
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
  }
  static Vec16 load_first(const float* from, int64_t n) {
    return {_mm256_maskload_ps(from, first_lanes(n)),
            _mm256_maskload_ps(from + 8, first_lanes(n - 8))};
  }
  static Vec16 load_pairs(const uint16_t* from) {
    return {bits(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))),
            bits(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 16)))};
  }
  static Vec16 broadcast_pair(uint32_t pair) {
    const __m256 both = bits(_mm256_set1_epi32(static_cast<int>(pair)));
    return {both, both};
  }

  void store(float* to) const {
    _mm256_storeu_ps(to, low);
    _mm256_storeu_ps(to + 8, high);
  }
  void store_first(float* to, int64_t n) const {
    _mm256_maskstore_ps(to, first_lanes(n), low);
    _mm256_maskstore_ps(to + 8, first_lanes(n - 8), high);
  }
  void store_bf16(uint16_t* to) const {
    const __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(_mm256_castps_si256(low), 16),
                                               _mm256_srli_epi32(_mm256_castps_si256(high), 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
  }

  float sum() const {
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  float maximum() const {
    const __m256 eight = _mm256_max_ps(low, high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  float largest_magnitude() const {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    const __m256i eight = _mm256_max_epu32(_mm256_and_si256(_mm256_castps_si256(low), magnitude),
                                           _mm256_and_si256(_mm256_castps_si256(high), magnitude));
    const __m128i four =
        _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
    const __m128i one = _mm_max_epu32(two, _mm_shuffle_epi32(two, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(one));
  }

 private:
  /// All ones in the first n of 8 lanes; any n.
  static __m256i first_lanes(int64_t n) {
    const int bound = n < 0 ? 0 : n > 8 ? 8 : static_cast<int>(n);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(bound), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m256 bits(__m256i value) { return _mm256_castsi256_ps(value); }
};

inline Vec16 operator+(const Vec16& a, const Vec16& b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Vec16 operator-(const Vec16& a, const Vec16& b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Vec16 operator*(const Vec16& a, const Vec16& b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Vec16 operator/(const Vec16& a, const Vec16& b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Vec16 fma(const Vec16& a, const Vec16& b, const Vec16& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
/// Of eight pairs; vdpbf16ps when the processor flushes denormals.
inline __m256 dot_eight_pairs(__m256 s, __m256 a, __m256 b) {
  const __m256 second = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000U)));
  const auto first = [](__m256 pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16));
  };
  s = _mm256_fmadd_ps(_mm256_and_ps(a, second), _mm256_and_ps(b, second), s);
  return _mm256_fmadd_ps(first(a), first(b), s);
}
inline Vec16 dot_pairs(const Vec16& s, const Vec16& a, const Vec16& b) {
  return {dot_eight_pairs(s.low, a.low, b.low), dot_eight_pairs(s.high, a.high, b.high)};
}
inline Vec16 first_of_pairs(const Vec16& a) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x0000ffff));
  return {_mm256_and_ps(a.low, mask), _mm256_and_ps(a.high, mask)};
}
inline Vec16 second_of_pairs(const Vec16& a) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000U)));
  return {_mm256_and_ps(a.low, mask), _mm256_and_ps(a.high, mask)};
}
/// Bit patterns rounded to nearest even at bit 16; NaN stays NaN. What the low halves hold means
/// nothing.
inline __m256i round_high_halves(__m256i bits) {
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  return _mm256_blendv_epi8(rounded, quiet, is_nan);
}
inline Vec16 rounded_to_bf16(const Vec16& a) {
  const auto half = [](__m256 value) {
    return _mm256_castsi256_ps(round_high_halves(_mm256_castps_si256(value)));
  };
  return second_of_pairs({half(a.low), half(a.high)});
}
struct FlushScope {
  FlushScope() : mode_(_mm_getcsr()) {
    constexpr unsigned kFlushToZero = 0x8000;
    constexpr unsigned kDenormalsAreZero = 0x0040;
    _mm_setcsr(mode_ | kFlushToZero | kDenormalsAreZero);
  }
  ~FlushScope() { _mm_setcsr(mode_); }

 private:
  unsigned mode_;
};
inline Vec16 max(const Vec16& a, const Vec16& b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Vec16 min(const Vec16& a, const Vec16& b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Vec16 negate(const Vec16& a) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  return {_mm256_xor_ps(a.low, sign), _mm256_xor_ps(a.high, sign)};
}
inline Vec16 max_magnitude(const Vec16& a, const Vec16& b) {
  const auto half = [](__m256 x, __m256 y) {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(_mm256_andnot_ps(sign, x)),
                                                _mm256_castps_si256(_mm256_andnot_ps(sign, y))));
  };
  return {half(a.low, b.low), half(a.high, b.high)};
}
inline Vec16 select_le(const Vec16& a, const Vec16& b, const Vec16& yes, const Vec16& no) {
  return {_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_LE_OQ)),
          _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_LE_OQ))};
}
inline Vec16 add_to_exponent(const Vec16& p, const Vec16& t) {
  const auto half = [](__m256 value, __m256 exponent) {
    return _mm256_castsi256_ps(_mm256_add_epi32(
        _mm256_castps_si256(value), _mm256_slli_epi32(_mm256_castps_si256(exponent), 23)));
  };
  return {half(p.low, t.low), half(p.high, t.high)};
}

struct IntVec16 {
  __m256i low;
  __m256i high;

  static IntVec16 zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static IntVec16 broadcast(int32_t value) {
    const __m256i v = _mm256_set1_epi32(value);
    return {v, v};
  }
  static IntVec16 load_quads(const std::byte* from) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32))};
  }
  static IntVec16 broadcast_quad(const int8_t* from) {
    int32_t quad;
    __builtin_memcpy(&quad, from, sizeof(quad));
    return broadcast(quad);
  }

  void store_low_bytes(int8_t* to) const {
    const __m256i bytes = _mm256_and_si256(low_words(), _mm256_set1_epi16(0xff));
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(to),
        _mm_packus_epi16(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
  }
  void store_byte_planes(int8_t* to) const {
    const __m256i planes = _mm256_set_epi8(14, 12, 10, 8, 15, 13, 11, 9, 6, 4, 2, 0, 7, 5, 3, 1, 14,
                                           12, 10, 8, 15, 13, 11, 9, 6, 4, 2, 0, 7, 5, 3, 1);
    const __m256i words = low_words();
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_shuffle_epi8(words, planes));
  }
  int32_t sum() const {
    const __m256i eight = _mm256_add_epi32(low, high);
    const __m128i four =
        _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
  }

 private:
  __m256i low_words() const {
    const __m256i word = _mm256_set1_epi32(0xffff);
    return _mm256_permute4x64_epi64(
        _mm256_packus_epi32(_mm256_and_si256(low, word), _mm256_and_si256(high, word)), 0xd8);
  }
};

inline IntVec16 operator+(const IntVec16& a, const IntVec16& b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline IntVec16 operator-(const IntVec16& a, const IntVec16& b) {
  return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
inline IntVec16 operator&(const IntVec16& a, const IntVec16& b) {
  return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}
template <int kBits>
IntVec16 shift_left(const IntVec16& a) {
  return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)};
}
inline IntVec16 dot_quads(const IntVec16& sum, const IntVec16& u, const IntVec16& s) {
  const auto half = [](__m256i total, __m256i x, __m256i y) {
    const __m256i pairs = _mm256_maddubs_epi16(x, y);
    return _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  };
  return {half(sum.low, u.low, s.low), half(sum.high, u.high, s.high)};
}
inline Vec16 to_f32(const IntVec16& a) {
  return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)};
}
inline IntVec16 bits_of(const Vec16& a) {
  return {_mm256_castps_si256(a.low), _mm256_castps_si256(a.high)};
}

}  // namespace
}  // namespace phalanx::kernels::cpu
