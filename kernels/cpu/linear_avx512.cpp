// Matrix products and activation conversion with AVX-512 F/BW/DQ/VL, VNNI and BF16.
// Called by linear.cpp through avx512_linear_tier.
//
// A tile is up to 6 rows by 64 outputs: 24 accumulators, 4 registers of weights, one broadcast.
// Weights are the unsigned operand of vpdpbusd, activations the signed one.
#include <immintrin.h>

#include "kernels/cpu/linear_loops.h"
#include "kernels/cpu/vec16_avx512.h"

namespace phalanx::kernels::cpu {
namespace {

constexpr int kMaxRows = 6;
constexpr int kVectors = 4;  // of 16 outputs, across a panel

/// Into the second-level cache: fetching from memory right into the first holds its few miss
/// buffers for long and costs a quarter of the bandwidth (Zen 4).
inline void prefetch_line(const uint8_t* line) { __builtin_prefetch(line, 0, 2); }

template <Fetch kFetch>
inline void prefetch_unit(const uint8_t* lines) {
  prefetch_line(lines);
  if constexpr (kFetch != kFetchOne) prefetch_line(lines + kLineBytes);
  if constexpr (kFetch == kFetchFour) {
    prefetch_line(lines + 2 * kLineBytes);
    prefetch_line(lines + 3 * kLineBytes);
  }
}

template <int kRows, Fetch kFetch>
void lane_f32(const LaneArgs& args) {
  __m512 sums[kRows][kVectors];
  for (auto& row : sums)
    for (auto& sum : row) sum = _mm512_setzero_ps();
  const uint8_t* w = args.w;
  const uint8_t* x = args.x;
  for (int64_t unit = 0; unit < args.num_units; ++unit, w += kUnitRowBytes, x += 4) {
    prefetch_unit<kFetch>(w + args.prefetch_bytes);
    __m512 weights[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) weights[v] = _mm512_load_ps(w + v * kLineBytes);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      float value;
      __builtin_memcpy(&value, x + r * args.x_row_bytes, 4);
      const __m512 activation = _mm512_set1_ps(value);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sums[r][v] = _mm512_fmadd_ps(activation, weights[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v)
      _mm512_store_ps(args.tile + r * kTileCols + v * 16, sums[r][v]);
}

inline __m512bh as_bf16(__m512i bits) { return (__m512bh)bits; }

template <int kRows, Fetch kFetch>
void lane_bf16(const LaneArgs& args) {
  __m512 sums[kRows][kVectors];
  for (auto& row : sums)
    for (auto& sum : row) sum = _mm512_setzero_ps();
  const uint8_t* w = args.w;
  const uint8_t* x = args.x;
  const int64_t num_pairs = args.num_units - (args.odd_lane ? 1 : 0);
  for (int64_t unit = 0; unit < num_pairs; ++unit, w += kUnitRowBytes, x += 4) {
    prefetch_unit<kFetch>(w + args.prefetch_bytes);
    __m512i weights[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) weights[v] = _mm512_load_si512(w + v * kLineBytes);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      int pair;
      __builtin_memcpy(&pair, x + r * args.x_row_bytes, 4);
      const __m512i activation = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], as_bf16(weights[v]), as_bf16(activation));
    }
  }
  if (args.odd_lane) {
    for (int r = 0; r < kRows; ++r) {
      uint16_t code;
      __builtin_memcpy(&code, x + r * args.x_row_bytes, 2);
      const __m512i activation = _mm512_set1_epi32(code);
      for (int v = 0; v < kVectors; ++v)
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], as_bf16(_mm512_load_si512(w + v * kLineBytes)),
                                      as_bf16(activation));
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v)
      _mm512_store_ps(args.tile + r * kTileCols + v * 16, sums[r][v]);
}

/// Gives each accumulator a register of its own at this point.
template <int kRows, typename Vector>
inline void pin(Vector (&dots)[kRows][kVectors]) {
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) asm("" : "+v"(dots[r][v]));
  }
}

/// -zero * sum_x of a group, where the integer sums start.
template <int kRows, bool kW4>
inline void start_group(const LaneArgs& args, const uint8_t* header, int64_t group,
                        __m512i (&dots)[kRows][kVectors]) {
  const int32_t* x_sums = args.x_sums + group;
  if (args.has_zeros) {
    for (int v = 0; v < kVectors; ++v) {
      const __m512i zeros = _mm512_cvtepu8_epi32(
          _mm_load_si128(reinterpret_cast<const __m128i*>(header + kUnitRowBytes + v * 16)));
      for (int r = 0; r < kRows; ++r)
        dots[r][v] = _mm512_mullo_epi32(zeros, _mm512_set1_epi32(-x_sums[r * args.x_groups]));
    }
  } else {
    for (int r = 0; r < kRows; ++r) {
      const __m512i start = _mm512_set1_epi32((kW4 ? -8 : -128) * x_sums[r * args.x_groups]);
      for (int v = 0; v < kVectors; ++v) dots[r][v] = start;
    }
  }
}

template <int kRows, Fetch kFetch>
inline void w8_units(const LaneArgs& args, const uint8_t* w, const uint8_t* x,
                     __m512i (&dots)[kRows][kVectors]) {
  for (int64_t unit = 0; unit < args.num_units; ++unit, w += kUnitRowBytes, x += 4) {
    prefetch_unit<kFetch>(w + args.prefetch_bytes);
    __m512i weights[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) weights[v] = _mm512_load_si512(w + v * kLineBytes);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      int codes;
      __builtin_memcpy(&codes, x + r * args.x_row_bytes, 4);
      const __m512i activation = _mm512_set1_epi32(codes);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        dots[r][v] = _mm512_dpbusd_epi32(dots[r][v], weights[v], activation);
    }
  }
}

template <int kRows, Fetch kFetch>
inline void w4_units(const LaneArgs& args, const uint8_t* w, const uint8_t* x,
                     __m512i (&dots)[kRows][kVectors]) {
  const __m512i mask = _mm512_set1_epi8(15);
  for (int64_t unit = 0; unit < args.num_units; ++unit, w += kUnitRowBytes, x += 8) {
    prefetch_unit<kFetch>(w + args.prefetch_bytes);
    __m512i weights[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      weights[v] = _mm512_and_si512(_mm512_load_si512(w + v * kLineBytes), mask);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      int codes;
      __builtin_memcpy(&codes, x + r * args.x_row_bytes, 4);
      const __m512i activation = _mm512_set1_epi32(codes);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        dots[r][v] = _mm512_dpbusd_epi32(dots[r][v], weights[v], activation);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      weights[v] =
          _mm512_and_si512(_mm512_srli_epi16(_mm512_load_si512(w + v * kLineBytes), 4), mask);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      int codes;
      __builtin_memcpy(&codes, x + r * args.x_row_bytes + 4, 4);
      const __m512i activation = _mm512_set1_epi32(codes);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        dots[r][v] = _mm512_dpbusd_epi32(dots[r][v], weights[v], activation);
    }
  }
}

/// What a lane's first group adds to: cheaper than storing zeros to the tile.
alignas(64) constexpr float kZeroTile[kMaxRows * kTileCols] = {};

template <int kRows, bool kW4, Fetch kFetch>
void lane_quantized(const LaneArgs& args) {
  float* tile = args.tile;
  const float* previous = kZeroTile;
  const int64_t group_cols = args.num_units * (kW4 ? 8 : 4);
  const uint8_t* header = args.w;
  const uint8_t* x = args.x;
  for (int64_t group = 0; group < args.num_groups; ++group) {
    prefetch_unit<kFetch>(header + args.prefetch_bytes);  // the scales are part of the stream
    if (args.has_zeros) prefetch_line(header + args.prefetch_bytes + kUnitRowBytes);
    __m512i dots[kRows][kVectors];
    start_group<kRows, kW4>(args, header, group, dots);
    pin(dots);
    if constexpr (kW4)
      w4_units<kRows, kFetch>(args, header + args.header_bytes, x, dots);
    else
      w8_units<kRows, kFetch>(args, header + args.header_bytes, x, dots);
    pin(dots);
    const float* x_scales = args.x_scales + group;
    for (int r = 0; r < kRows; ++r) {
      const __m512 x_scale = _mm512_set1_ps(x_scales[r * args.x_groups]);
      for (int v = 0; v < kVectors; ++v) {
        const int place = r * kTileCols + v * 16;
        const __m512 scale = _mm512_mul_ps(x_scale, _mm512_load_ps(header + v * kLineBytes));
        _mm512_store_ps(tile + place, _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][v]), scale,
                                                      _mm512_load_ps(previous + place)));
      }
    }
    // Keeps the compiler from caching the tile in registers it does not have.
    asm volatile("" ::: "memory");
    previous = tile;
    header += args.group_bytes;
    x += group_cols;
  }
}

/// e4m3 to bf16 by bytes. A code is s.eeee.mmm; the bf16 of one of 2^-6 or more is
/// ((code & 127) << 4) + 0x3c00 with its sign, whose high byte depends on the code's high nibble
/// alone. The high nibble 0 holds the subnormals: there tables of the low nibble say what differs.
struct E4m3Tables {
  __m512i high = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0x3c, 0x3d, 0x3e, 0x3f, 0x40, 0x41, 0x42, 0x43, static_cast<char>(0xbc),
                    static_cast<char>(0xbd), static_cast<char>(0xbe), static_cast<char>(0xbf),
                    static_cast<char>(0xc0), static_cast<char>(0xc1), static_cast<char>(0xc2),
                    static_cast<char>(0xc3)));
  __m512i high_less =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0x3c, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
  __m512i low = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 0, static_cast<char>(0x80), static_cast<char>(0xc0), 0, 0x20, 0x40, 0x60,
                    static_cast<char>(0x80), static_cast<char>(0x90), static_cast<char>(0xa0),
                    static_cast<char>(0xb0), static_cast<char>(0xc0), static_cast<char>(0xd0),
                    static_cast<char>(0xe0), static_cast<char>(0xf0)));
  __m512i nibble = _mm512_set1_epi8(0x0f);
  __m512i exponent = _mm512_set1_epi8(0x70);  // its three high bits
};

/// Of every 16 bytes, the first 8 and the last 8.
inline void widen_e4m3(const E4m3Tables& tables, __m512i codes, __m512i& first, __m512i& last) {
  const __mmask64 is_small = _mm512_testn_epi8_mask(codes, tables.exponent);
  const __m512i nibbles = _mm512_and_si512(codes, tables.nibble);
  __m512i high = _mm512_shuffle_epi8(tables.high,
                                     _mm512_and_si512(_mm512_srli_epi16(codes, 4), tables.nibble));
  high = _mm512_mask_sub_epi8(high, is_small, high, _mm512_shuffle_epi8(tables.high_less, nibbles));
  const __m512i low =
      _mm512_mask_shuffle_epi8(_mm512_slli_epi16(nibbles, 4), is_small, tables.low, nibbles);
  first = _mm512_unpacklo_epi8(low, high);
  last = _mm512_unpackhi_epi8(low, high);
}

/// Columns whose activations are widened at once.
constexpr int64_t kWideCols = 256;

/// `count` e4m3 codes, at most kWideCols, as pairs of bf16; up to kWideCols are written.
inline void widen_row(const E4m3Tables& tables, const uint8_t* x, int64_t count, uint32_t* out) {
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t k = 0; k < count; k += 64) {
    const __mmask64 mask = count - k >= 64 ? ~__mmask64{0} : (__mmask64{1} << (count - k)) - 1;
    __m512i first;
    __m512i last;
    widen_e4m3(tables, _mm512_permutexvar_epi64(order, _mm512_maskz_loadu_epi8(mask, x + k)), first,
               last);
    _mm512_store_si512(out + k / 2, first);
    _mm512_store_si512(out + k / 2 + 16, last);
  }
}

/// The pair is an operand in memory: a compiler that shares broadcast pairs between vectors of
/// weights runs out of registers and spills sums.
inline void add_products(__m512& sum, __m512i weights, const uint32_t& pair) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(pair));
}

/// Weights stay e4m3 up to the registers; activations are widened once a group, not once an output.
template <int kRows, Fetch kFetch>
void lane_fp8(const LaneArgs& args) {
  const E4m3Tables tables;
  float* tile = args.tile;
  const float* previous = kZeroTile;
  const uint8_t* header = args.w;
  const uint8_t* x = args.x;
  alignas(64) uint32_t wide[kRows][kWideCols / 2];
  for (int64_t group = 0; group < args.num_groups; ++group) {
    prefetch_unit<kFetch>(header + args.prefetch_bytes);
    __m512 dots[kRows][kVectors];
    for (auto& row : dots)
      for (auto& dot : row) dot = _mm512_setzero_ps();
    const uint8_t* w = header + args.header_bytes;
    for (int64_t unit = 0; unit < args.num_units;) {
      const int64_t units =
          args.num_units - unit < kWideCols / 4 ? args.num_units - unit : kWideCols / 4;
      for (int r = 0; r < kRows; ++r)
        widen_row(tables, x + r * args.x_row_bytes, units * 4, wide[r]);
      pin(dots);
      const uint32_t* pairs = wide[0];
      for (const uint32_t* end = pairs + units * 2; pairs < end; pairs += 2, w += kUnitRowBytes) {
        prefetch_unit<kFetch>(w + args.prefetch_bytes);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          __m512i first;
          __m512i last;
          widen_e4m3(tables, _mm512_load_si512(w + v * kLineBytes), first, last);
#pragma GCC unroll 6
          for (int r = 0; r < kRows; ++r)
            add_products(dots[r][v], first, pairs[r * (kWideCols / 2)]);
#pragma GCC unroll 6
          for (int r = 0; r < kRows; ++r)
            add_products(dots[r][v], last, pairs[r * (kWideCols / 2) + 1]);
        }
      }
      pin(dots);
      unit += units;
      x += units * 4;
    }
    const float* x_scales = args.x_scales + group;
    for (int r = 0; r < kRows; ++r) {
      const __m512 x_scale = _mm512_set1_ps(x_scales[r * args.x_groups]);
      for (int v = 0; v < kVectors; ++v) {
        const int place = r * kTileCols + v * 16;
        const __m512 scale = _mm512_mul_ps(x_scale, _mm512_load_ps(header + v * kLineBytes));
        _mm512_store_ps(tile + place,
                        _mm512_fmadd_ps(dots[r][v], scale, _mm512_load_ps(previous + place)));
      }
    }
    asm volatile("" ::: "memory");  // as in lane_quantized
    previous = tile;
    header += args.group_bytes;
  }
}

template <int kRows>
constexpr LaneKernels kF32Kernels = {
    {lane_f32<kRows, kFetchFour>, lane_f32<kRows, kFetchTwo>, lane_f32<kRows, kFetchOne>}};
template <int kRows>
constexpr LaneKernels kBf16Kernels = {
    {lane_bf16<kRows, kFetchFour>, lane_bf16<kRows, kFetchTwo>, lane_bf16<kRows, kFetchOne>}};
template <int kRows, bool kW4>
constexpr LaneKernels kQuantizedKernels = {{lane_quantized<kRows, kW4, kFetchFour>,
                                            lane_quantized<kRows, kW4, kFetchTwo>,
                                            lane_quantized<kRows, kW4, kFetchOne>}};

template <int kRows>
constexpr LaneKernels kFp8Kernels = {
    {lane_fp8<kRows, kFetchFour>, lane_fp8<kRows, kFetchTwo>, lane_fp8<kRows, kFetchOne>}};

void multiply_f32(const LinearTask& task) {
  constexpr LaneKernels kKernels[kMaxRows] = {kF32Kernels<1>, kF32Kernels<2>, kF32Kernels<3>,
                                              kF32Kernels<4>, kF32Kernels<5>, kF32Kernels<6>};
  multiply_panels(task, kKernels);
}
void multiply_bf16(const LinearTask& task) {
  constexpr LaneKernels kKernels[kMaxRows] = {kBf16Kernels<1>, kBf16Kernels<2>, kBf16Kernels<3>,
                                              kBf16Kernels<4>, kBf16Kernels<5>, kBf16Kernels<6>};
  multiply_panels(task, kKernels);
}
template <bool kW4>
void multiply_quantized(const LinearTask& task) {
  constexpr LaneKernels kKernels[kMaxRows] = {kQuantizedKernels<1, kW4>, kQuantizedKernels<2, kW4>,
                                              kQuantizedKernels<3, kW4>, kQuantizedKernels<4, kW4>,
                                              kQuantizedKernels<5, kW4>, kQuantizedKernels<6, kW4>};
  multiply_panels(task, kKernels);
}

void multiply_fp8(const LinearTask& task) {
  constexpr LaneKernels kKernels[kMaxRows] = {kFp8Kernels<1>, kFp8Kernels<2>, kFp8Kernels<3>,
                                              kFp8Kernels<4>, kFp8Kernels<5>, kFp8Kernels<6>};
  multiply_panels(task, kKernels);
}

inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? 0xffff : static_cast<__mmask16>((1U << count) - 1U);
}

void convert_bf16(const ConvertTask& task) {
  for (int64_t r = task.row_begin; r < task.row_end; ++r) {
    const float* x = task.x + r * task.x_stride;
    uint8_t* out = task.codes + r * task.codes_stride;
    for (int64_t k = 0; k < task.num_cols; k += 16) {
      const __mmask16 mask = first_lanes(task.num_cols - k);
      const __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, x + k));
      _mm256_mask_storeu_epi16(
          out + k * 2, mask, _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_high_halves(bits), 16)));
    }
  }
}

/// NaN when there is one.
inline float largest_magnitude(const float* x, int64_t count) {
  const __m512i magnitude_bits = _mm512_set1_epi32(0x7fffffff);
  __m512i max_bits = _mm512_setzero_si512();  // of |x|: as integers NaN is above all
  for (int64_t k = 0; k < count; k += 16) {
    const __m512 values = _mm512_maskz_loadu_ps(first_lanes(count - k), x + k);
    max_bits =
        _mm512_max_epu32(max_bits, _mm512_and_si512(_mm512_castps_si512(values), magnitude_bits));
  }
  return _mm_cvtss_f32(
      _mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(_mm512_reduce_max_epu32(max_bits)))));
}

/// f32_to_e4m3 of runtime/base/dtype.h, of magnitudes up to 448.
inline __m512i round_to_e4m3(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(magnitude, 20), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_add_epi32(_mm512_add_epi32(magnitude, _mm512_set1_epi32(0x7ffff)), even);
  const __m512i normal =
      _mm512_sub_epi32(_mm512_srli_epi32(rounded, 20), _mm512_set1_epi32(120 << 3));
  const __m512 step_of_2_9 = _mm512_set1_ps(0x1p14F);
  const __m512i subnormal = _mm512_sub_epi32(
      _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(magnitude), step_of_2_9)),
      _mm512_castps_si512(step_of_2_9));
  const __mmask16 is_small =
      _mm512_cmplt_epu32_mask(magnitude, _mm512_castps_si512(_mm512_set1_ps(0x1p-6F)));
  const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), _mm512_set1_epi32(0x80));
  return _mm512_or_si512(_mm512_mask_mov_epi32(normal, is_small, subnormal), sign);
}

void convert_e4m3_group(const float* x, int64_t count, uint8_t* codes, float* scale_out) {
  const float scale = largest_magnitude(x, count) / 448.0F;
  const bool is_zero = scale < __FLT_MIN__;
  const __m512 factor = _mm512_set1_ps(1.0F / scale);
  for (int64_t k = 0; k < count; k += 16) {
    const __mmask16 mask = first_lanes(count - k);
    // min and max return their second operand when one is NaN, so NaN becomes 448.
    __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + k), factor);
    scaled = _mm512_min_ps(scaled, _mm512_set1_ps(448.0F));
    scaled = _mm512_max_ps(scaled, _mm512_set1_ps(-448.0F));
    const __m512i rounded = is_zero ? _mm512_setzero_si512() : round_to_e4m3(scaled);
    _mm_mask_storeu_epi8(codes + k, mask, _mm512_cvtepi32_epi8(rounded));
  }
  *scale_out = is_zero ? 0.0F : scale;
}

void convert_group(const float* x, int64_t count, uint8_t* codes, float* scale_out,
                   int32_t* sum_out) {
  float scale = largest_magnitude(x, count) / 127.0F;
  float inverse = 1.0F / scale;
  if (scale < __FLT_MIN__) scale = inverse = 0.0F;
  const __m512 factor = _mm512_set1_ps(inverse);
  __m512i sums = _mm512_setzero_si512();
  for (int64_t k = 0; k < count; k += 16) {
    const __mmask16 mask = first_lanes(count - k);
    // min and max return their second operand when one is NaN, so NaN becomes 127.
    __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + k), factor);
    scaled = _mm512_min_ps(scaled, _mm512_set1_ps(127.0F));
    scaled = _mm512_max_ps(scaled, _mm512_set1_ps(-127.0F));
    const __m512i rounded = _mm512_maskz_cvtps_epi32(mask, scaled);
    sums = _mm512_add_epi32(sums, rounded);
    _mm_mask_storeu_epi8(codes + k, mask, _mm512_cvtepi32_epi8(rounded));
  }
  *scale_out = scale;
  *sum_out = _mm512_reduce_add_epi32(sums);
}

constexpr LinearTier kTier = {multiply_f32,
                              multiply_bf16,
                              multiply_quantized<false>,
                              multiply_quantized<true>,
                              multiply_fp8,
                              convert_f32,
                              convert_bf16,
                              convert_groups<convert_group>,
                              convert_groups<convert_e4m3_group>,
                              kMaxRows};

}  // namespace

const LinearTier* avx512_linear_tier() { return &kTier; }

}  // namespace phalanx::kernels::cpu
