// Matrix products and activation conversion with AVX2, FMA and F16C, and with vpdpbusd where the
// including file defines PHALANX_DPBUSD(sums, weights, codes). Included by linear_avx2.cpp,
// linear_avx2_vnni_vex.cpp and linear_avx2_vnni_evex.cpp only.
//
// Sixteen registers hold less than a panel's width, so a tile of several rows passes over the panel
// in strips of outputs. u8 x s8 products are exact: without vpdpbusd, w8 codes are widened to 16
// bits for vpmaddwd (vpmaddubsw could saturate on 2 * 255 * 127), w4 codes are small enough for
// vpmaddubsw.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/linear_loops.h"
#include "kernels/cpu/vec16_avx2.h"

namespace phalanx::kernels::cpu {
namespace {

/// Vectors of 8 outputs in a strip: 8 accumulators, 6 for three rows.
constexpr int strip_vectors(int rows) { return rows == 1 ? 8 : (rows == 2 ? 4 : 2); }

inline void prefetch_unit(const LaneArgs& args, const uint8_t* w) {
  const uint8_t* lines = w + args.prefetch_bytes;
  __builtin_prefetch(lines, 0, 2);
  __builtin_prefetch(lines + kLineBytes, 0, 2);
  __builtin_prefetch(lines + 2 * kLineBytes, 0, 2);
  __builtin_prefetch(lines + 3 * kLineBytes, 0, 2);
}

inline __m256i load_codes(const uint8_t* from) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
}

inline __m256i broadcast_unit(const uint8_t* from) {
  int unit;
  __builtin_memcpy(&unit, from, 4);
  return _mm256_set1_epi32(unit);
}

template <int kRows>
void lane_f32(const LaneArgs& args) {
  constexpr int kVectors = strip_vectors(kRows);
  for (int strip = 0; strip < kTileCols; strip += kVectors * 8) {
    __m256 sums[kRows][kVectors];
    for (auto& row : sums)
      for (auto& sum : row) sum = _mm256_setzero_ps();
    const uint8_t* w = args.w + strip * 4;
    const uint8_t* x = args.x;
    for (int64_t unit = 0; unit < args.num_units; ++unit, w += kUnitRowBytes, x += 4) {
      if (strip == 0) prefetch_unit(args, w);
      __m256 weights[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) weights[v] = _mm256_castsi256_ps(load_codes(w + v * 32));
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const __m256 activation = _mm256_castsi256_ps(broadcast_unit(x + r * args.x_row_bytes));
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
          sums[r][v] = _mm256_fmadd_ps(activation, weights[v], sums[r][v]);
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v)
        _mm256_store_ps(args.tile + r * kTileCols + strip + v * 8, sums[r][v]);
  }
}

/// vdpbf16ps by two fused multiply-adds: the odd element of a pair first. Needs FTZ and DAZ.
template <int kRows>
__attribute__((noinline)) void lane_bf16_flushing(const LaneArgs& args) {
  constexpr int kVectors = strip_vectors(kRows);
  const __m256i odd_mask = _mm256_set1_epi32(static_cast<int>(0xffff0000U));
  for (int strip = 0; strip < kTileCols; strip += kVectors * 8) {
    __m256 sums[kRows][kVectors];
    for (auto& row : sums)
      for (auto& sum : row) sum = _mm256_setzero_ps();
    const uint8_t* w = args.w + strip * 4;
    const uint8_t* x = args.x;
    for (int64_t unit = 0; unit < args.num_units; ++unit, w += kUnitRowBytes, x += 4) {
      if (strip == 0) prefetch_unit(args, w);
      const bool lone = args.odd_lane && unit + 1 == args.num_units;
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        uint32_t pair = 0;
        if (lone) {
          uint16_t code;
          __builtin_memcpy(&code, x + r * args.x_row_bytes, 2);
          pair = code;
        } else {
          __builtin_memcpy(&pair, x + r * args.x_row_bytes, 4);
        }
        const __m256i both = _mm256_set1_epi32(static_cast<int>(pair));
        const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(both, odd_mask));
        const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          const __m256i codes = load_codes(w + v * 32);
          sums[r][v] = _mm256_fmadd_ps(odd, _mm256_castsi256_ps(_mm256_and_si256(codes, odd_mask)),
                                       sums[r][v]);
          sums[r][v] =
              _mm256_fmadd_ps(even, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 16)), sums[r][v]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v)
        _mm256_store_ps(args.tile + r * kTileCols + strip + v * 8, sums[r][v]);
  }
}

template <int kRows>
void lane_bf16(const LaneArgs& args) {
  constexpr unsigned kFlushToZero = 0x8000;
  constexpr unsigned kDenormalsAreZero = 0x0040;
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | kFlushToZero | kDenormalsAreZero);
  lane_bf16_flushing<kRows>(args);
  _mm_setcsr(mode);
}

/// A strip's integer sums of one group start at -zero * sum_x.
template <int kRows, int kVectors, bool kW4>
inline void start_group(const LaneArgs& args, const uint8_t* header, int64_t group, int strip,
                        __m256i (&dots)[kRows][kVectors]) {
  const int32_t* x_sums = args.x_sums + group;
  for (int r = 0; r < kRows; ++r) {
    const int sum = x_sums[r * args.x_groups];
    if (args.has_zeros) {
      for (int v = 0; v < kVectors; ++v) {
        const __m256i zeros = _mm256_cvtepu8_epi32(_mm_loadl_epi64(
            reinterpret_cast<const __m128i*>(header + kUnitRowBytes + strip + v * 8)));
        dots[r][v] = _mm256_mullo_epi32(zeros, _mm256_set1_epi32(-sum));
      }
    } else {
      for (int v = 0; v < kVectors; ++v) dots[r][v] = _mm256_set1_epi32((kW4 ? -8 : -128) * sum);
    }
  }
}

#ifdef PHALANX_DPBUSD

template <int kRows, int kVectors>
inline void w8_units(const LaneArgs& args, const uint8_t* w, const uint8_t* x, bool prefetch,
                     __m256i (&dots)[kRows][kVectors]) {
  for (int64_t unit = 0; unit < args.num_units; ++unit, w += kUnitRowBytes, x += 4) {
    if (prefetch) prefetch_unit(args, w);
    __m256i weights[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) weights[v] = load_codes(w + v * 32);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m256i codes = broadcast_unit(x + r * args.x_row_bytes);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) dots[r][v] = PHALANX_DPBUSD(dots[r][v], weights[v], codes);
    }
  }
}

template <int kRows, int kVectors>
inline void w4_units(const LaneArgs& args, const uint8_t* w, const uint8_t* x, bool prefetch,
                     __m256i (&dots)[kRows][kVectors]) {
  const __m256i low_nibbles = _mm256_set1_epi8(15);
  for (int64_t unit = 0; unit < args.num_units; ++unit, w += kUnitRowBytes, x += 8) {
    if (prefetch) prefetch_unit(args, w);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const __m256i weights = load_codes(w + v * 32);
      const __m256i low = _mm256_and_si256(weights, low_nibbles);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(weights, 4), low_nibbles);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* codes = x + r * args.x_row_bytes;
        dots[r][v] = PHALANX_DPBUSD(dots[r][v], low, broadcast_unit(codes));
        dots[r][v] = PHALANX_DPBUSD(dots[r][v], high, broadcast_unit(codes + 4));
      }
    }
  }
}

#else

template <int kRows, int kVectors>
inline void w8_units(const LaneArgs& args, const uint8_t* w, const uint8_t* x, bool prefetch,
                     __m256i (&dots)[kRows][kVectors]) {
  const __m256i low_bytes = _mm256_set1_epi16(0x00ff);
  for (int64_t unit = 0; unit < args.num_units; ++unit, w += kUnitRowBytes, x += 4) {
    if (prefetch) prefetch_unit(args, w);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m256i codes = broadcast_unit(x + r * args.x_row_bytes);
      const __m256i odd = _mm256_srai_epi16(codes, 8);
      const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(codes, 8), 8);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const __m256i weights = load_codes(w + v * 32);
        const __m256i products =
            _mm256_add_epi32(_mm256_madd_epi16(_mm256_and_si256(weights, low_bytes), even),
                             _mm256_madd_epi16(_mm256_srli_epi16(weights, 8), odd));
        dots[r][v] = _mm256_add_epi32(dots[r][v], products);
      }
    }
  }
}

template <int kRows, int kVectors>
inline void w4_units(const LaneArgs& args, const uint8_t* w, const uint8_t* x, bool prefetch,
                     __m256i (&dots)[kRows][kVectors]) {
  const __m256i low_nibbles = _mm256_set1_epi8(15);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t unit = 0; unit < args.num_units; ++unit, w += kUnitRowBytes, x += 8) {
    if (prefetch) prefetch_unit(args, w);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m256i first = broadcast_unit(x + r * args.x_row_bytes);
      const __m256i second = broadcast_unit(x + r * args.x_row_bytes + 4);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const __m256i weights = load_codes(w + v * 32);
        const __m256i low = _mm256_and_si256(weights, low_nibbles);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(weights, 4), low_nibbles);
        // Four products of at most 15 * 127 fit 16 bits.
        const __m256i products =
            _mm256_add_epi16(_mm256_maddubs_epi16(low, first), _mm256_maddubs_epi16(high, second));
        dots[r][v] = _mm256_add_epi32(dots[r][v], _mm256_madd_epi16(products, ones));
      }
    }
  }
}

#endif

template <int kRows, bool kW4>
void lane_quantized(const LaneArgs& args) {
  constexpr int kVectors = strip_vectors(kRows);
  const int64_t group_cols = args.num_units * (kW4 ? 8 : 4);
  for (int strip = 0; strip < kTileCols; strip += kVectors * 8) {
    float* tile = args.tile + strip;
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v)
        _mm256_store_ps(tile + r * kTileCols + v * 8, _mm256_setzero_ps());
    const uint8_t* header = args.w;
    const uint8_t* x = args.x;
    for (int64_t group = 0; group < args.num_groups; ++group) {
      __m256i dots[kRows][kVectors];
      start_group<kRows, kVectors, kW4>(args, header, group, strip, dots);
      const uint8_t* w = header + args.header_bytes + strip * 4;
      if constexpr (kW4)
        w4_units<kRows, kVectors>(args, w, x, strip == 0, dots);
      else
        w8_units<kRows, kVectors>(args, w, x, strip == 0, dots);
      const float* x_scales = args.x_scales + group;
      for (int r = 0; r < kRows; ++r) {
        const __m256 x_scale = _mm256_set1_ps(x_scales[r * args.x_groups]);
        for (int v = 0; v < kVectors; ++v) {
          float* sum = tile + r * kTileCols + v * 8;
          const __m256 scale =
              _mm256_mul_ps(x_scale, _mm256_castsi256_ps(load_codes(header + strip * 4 + v * 32)));
          _mm256_store_ps(
              sum, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r][v]), scale, _mm256_load_ps(sum)));
        }
      }
      header += args.group_bytes;
      x += group_cols;
    }
  }
}

/// e4m3 to bf16 by bytes. A code is s.eeee.mmm; the bf16 of one of 2^-6 or more is
/// ((code & 127) << 4) + 0x3c00 with its sign, whose high byte depends on the code's high nibble
/// alone. The high nibble 0 holds the subnormals: there tables of the low nibble say what differs.
/// first, last: of every 16 bytes, the first 8 and the last 8.
inline void widen_e4m3(__m256i codes, __m256i& first, __m256i& last) {
  const __m256i high_of_high = _mm256_broadcastsi128_si256(
      _mm_set_epi64x(static_cast<long long>(0xc3c2c1c0bfbebdbcULL), 0x43424140'3f3e3d3cLL));
  const __m256i less_of_low = _mm256_broadcastsi128_si256(_mm_set_epi64x(0, 0x0101013cLL));
  const __m256i low_of_low = _mm256_broadcastsi128_si256(
      _mm_set_epi64x(static_cast<long long>(0xf0e0d0c0b0a09080ULL), 0x60402000c0800000LL));
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  const __m256i is_small =
      _mm256_cmpeq_epi8(_mm256_and_si256(codes, _mm256_set1_epi8(0x70)), _mm256_setzero_si256());
  const __m256i nibbles = _mm256_and_si256(codes, nibble);
  const __m256i high = _mm256_sub_epi8(
      _mm256_shuffle_epi8(high_of_high, _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble)),
      _mm256_and_si256(is_small, _mm256_shuffle_epi8(less_of_low, nibbles)));
  const __m256i low = _mm256_blendv_epi8(_mm256_slli_epi16(nibbles, 4),
                                         _mm256_shuffle_epi8(low_of_low, nibbles), is_small);
  first = _mm256_unpacklo_epi8(low, high);
  last = _mm256_unpackhi_epi8(low, high);
}

inline __m256 even_codes(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
inline __m256 odd_codes(__m256i pairs) {
  return _mm256_castsi256_ps(
      _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
}

/// Columns whose activations are widened at once.
constexpr int64_t kWideCols = 128;

/// `count` e4m3 codes, a multiple of 8 up to kWideCols, as f32.
inline void widen_row(const uint8_t* x, int64_t count, float* out) {
  for (int64_t k = 0; k < count; k += 8) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x + k));
    __m256i first;
    __m256i last;
    widen_e4m3(_mm256_castsi128_si256(codes), first, last);
    const __m256i words = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(first));
    _mm256_store_ps(out + k, _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)));
  }
}

/// One strip's dots of `num_units` units. x: rows of kWideCols widened activations.
template <int kRows, int kVectors>
inline void fp8_units(const LaneArgs& args, const uint8_t* w, const float* x, int64_t num_units,
                      bool prefetch, float* dots) {
  __m256 sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm256_load_ps(dots + r * kTileCols + v * 8);
  for (int64_t unit = 0; unit < num_units; ++unit, w += kUnitRowBytes, x += 4) {
    if (prefetch) prefetch_unit(args, w);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      __m256i pairs[2];
      widen_e4m3(load_codes(w + v * 32), pairs[0], pairs[1]);
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const __m256 odd = odd_codes(pairs[i]);
        const __m256 even = even_codes(pairs[i]);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const float* codes = x + r * kWideCols + i * 2;
          sums[r][v] = _mm256_fmadd_ps(_mm256_broadcast_ss(codes + 1), odd, sums[r][v]);
          sums[r][v] = _mm256_fmadd_ps(_mm256_broadcast_ss(codes), even, sums[r][v]);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) _mm256_store_ps(dots + r * kTileCols + v * 8, sums[r][v]);
}

/// Weights stay e4m3 up to the registers; activations are widened once a group, not once an output.
template <int kRows>
void lane_fp8(const LaneArgs& args) {
  constexpr int kVectors = strip_vectors(kRows);
  alignas(32) float wide[kRows][kWideCols];
  alignas(32) float dots[kRows * kTileCols];
  for (int i = 0; i < kRows * kTileCols; ++i) args.tile[i] = 0.0F;
  const uint8_t* header = args.w;
  const uint8_t* x = args.x;
  for (int64_t group = 0; group < args.num_groups; ++group) {
    for (float& dot : dots) dot = 0.0F;
    const uint8_t* w = header + args.header_bytes;
    for (int64_t unit = 0; unit < args.num_units;) {
      const int64_t units =
          args.num_units - unit < kWideCols / 4 ? args.num_units - unit : kWideCols / 4;
      for (int r = 0; r < kRows; ++r) widen_row(x + r * args.x_row_bytes, units * 4, wide[r]);
      for (int strip = 0; strip < kTileCols; strip += kVectors * 8)
        fp8_units<kRows, kVectors>(args, w + strip * 4, wide[0], units, strip == 0, dots + strip);
      unit += units;
      w += units * kUnitRowBytes;
      x += units * 4;
    }
    const float* x_scales = args.x_scales + group;
    for (int r = 0; r < kRows; ++r) {
      const __m256 x_scale = _mm256_set1_ps(x_scales[r * args.x_groups]);
      for (int n = 0; n < kTileCols; n += 8) {
        float* sum = args.tile + r * kTileCols + n;
        const __m256 scale =
            _mm256_mul_ps(x_scale, _mm256_castsi256_ps(load_codes(header + n * 4)));
        _mm256_store_ps(sum, _mm256_fmadd_ps(_mm256_load_ps(dots + r * kTileCols + n), scale,
                                             _mm256_load_ps(sum)));
      }
    }
    header += args.group_bytes;
  }
}

/// 32-bit results, high half zero.
inline __m256i round_to_bf16(__m256i bits) {
  return _mm256_srli_epi32(round_high_halves(bits), 16);
}

/// Eight 32-bit values that fit 16 unsigned bits, as 16 bytes.
inline __m128i narrow_to_16(__m256i values) {
  return _mm_packus_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
}

/// The first `count` (< 8) floats, the rest zero.
inline __m256 load_first(const float* x, int64_t count) {
  alignas(32) float values[8] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = x[i];
  return _mm256_load_ps(values);
}

void convert_bf16(const ConvertTask& task) {
  for (int64_t r = task.row_begin; r < task.row_end; ++r) {
    const float* x = task.x + r * task.x_stride;
    uint8_t* out = task.codes + r * task.codes_stride;
    int64_t k = 0;
    for (; k + 8 <= task.num_cols; k += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k * 2),
                       narrow_to_16(round_to_bf16(_mm256_castps_si256(_mm256_loadu_ps(x + k)))));
    const int64_t rest = task.num_cols - k;
    if (rest == 0) continue;
    alignas(16) uint8_t codes[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(codes),
                    narrow_to_16(round_to_bf16(_mm256_castps_si256(load_first(x + k, rest)))));
    __builtin_memcpy(out + k * 2, codes, static_cast<unsigned long>(rest) * 2);
  }
}

inline int sum_of_lanes(__m256i values) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
  return _mm_cvtsi128_si32(sum);
}

inline __m128i max_of_lanes(__m256i values) {
  __m128i max = _mm_max_epu32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  max = _mm_max_epu32(max, _mm_shuffle_epi32(max, 0x4e));
  return _mm_max_epu32(max, _mm_shuffle_epi32(max, 0xb1));
}

/// NaN when there is one; `count` is a multiple of 8.
inline float largest_magnitude(const float* x, int64_t count) {
  const __m256i magnitude_bits = _mm256_set1_epi32(0x7fffffff);
  __m256i max_bits = _mm256_setzero_si256();  // of |x|: as integers NaN is above all
  for (int64_t k = 0; k < count; k += 8)
    max_bits = _mm256_max_epu32(
        max_bits, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + k)), magnitude_bits));
  return _mm_cvtss_f32(_mm_castsi128_ps(max_of_lanes(max_bits)));
}

/// f32_to_e4m3 of runtime/base/dtype.h, of magnitudes up to 448.
inline __m256i round_to_e4m3(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i even = _mm256_and_si256(_mm256_srli_epi32(magnitude, 20), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_add_epi32(_mm256_add_epi32(magnitude, _mm256_set1_epi32(0x7ffff)), even);
  const __m256i normal =
      _mm256_sub_epi32(_mm256_srli_epi32(rounded, 20), _mm256_set1_epi32(120 << 3));
  const __m256 step_of_2_9 = _mm256_set1_ps(0x1p14F);
  const __m256i subnormal = _mm256_sub_epi32(
      _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(magnitude), step_of_2_9)),
      _mm256_castps_si256(step_of_2_9));
  const __m256i is_small =
      _mm256_cmpgt_epi32(_mm256_castps_si256(_mm256_set1_ps(0x1p-6F)), magnitude);
  const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));
  return _mm256_or_si256(_mm256_blendv_epi8(normal, subnormal, is_small), sign);
}

/// `count` is a multiple of 8.
void convert_e4m3_group(const float* x, int64_t count, uint8_t* codes, float* scale_out) {
  const float scale = largest_magnitude(x, count) / 448.0F;
  const bool is_zero = scale < __FLT_MIN__;
  const __m256 factor = _mm256_set1_ps(1.0F / scale);
  for (int64_t k = 0; k < count; k += 8) {
    // min and max return their second operand when one is NaN, so NaN becomes 448.
    __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + k), factor);
    scaled = _mm256_min_ps(scaled, _mm256_set1_ps(448.0F));
    scaled = _mm256_max_ps(scaled, _mm256_set1_ps(-448.0F));
    const __m128i words = narrow_to_16(is_zero ? _mm256_setzero_si256() : round_to_e4m3(scaled));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + k), _mm_packus_epi16(words, words));
  }
  *scale_out = is_zero ? 0.0F : scale;
}

/// `count` is a multiple of 8.
void convert_group(const float* x, int64_t count, uint8_t* codes, float* scale_out,
                   int32_t* sum_out) {
  const float max = largest_magnitude(x, count);
  float scale = max / 127.0F;
  float inverse = 1.0F / scale;
  if (scale < __FLT_MIN__) scale = inverse = 0.0F;
  const __m256 factor = _mm256_set1_ps(inverse);
  __m256i sums = _mm256_setzero_si256();
  for (int64_t k = 0; k < count; k += 8) {
    // min and max return their second operand when one is NaN, so NaN becomes 127.
    __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + k), factor);
    scaled = _mm256_min_ps(scaled, _mm256_set1_ps(127.0F));
    scaled = _mm256_max_ps(scaled, _mm256_set1_ps(-127.0F));
    const __m256i rounded = _mm256_cvtps_epi32(scaled);
    sums = _mm256_add_epi32(sums, rounded);
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + k), _mm_packs_epi16(words, words));
  }
  *scale_out = scale;
  *sum_out = sum_of_lanes(sums);
}

}  // namespace
}  // namespace phalanx::kernels::cpu

#include "kernels/cpu/linear_four_rows.h"
