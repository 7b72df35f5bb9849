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

/// `count` is a multiple of 8.
void convert_group(const float* x, int64_t count, uint8_t* codes, float* scale_out,
                   int32_t* sum_out) {
  const __m256i magnitude_bits = _mm256_set1_epi32(0x7fffffff);
  __m256i max_bits = _mm256_setzero_si256();  // of |x|: as integers NaN is above all
  for (int64_t k = 0; k < count; k += 8)
    max_bits = _mm256_max_epu32(
        max_bits, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + k)), magnitude_bits));
  const float max = _mm_cvtss_f32(_mm_castsi128_ps(max_of_lanes(max_bits)));
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
