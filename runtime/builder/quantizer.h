// Round-to-nearest quantization of weight rows. Called by engine_builder; pure functions, any
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/base/dtype.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::builder {

/// Converts `count` stored elements (f32, f16, bf16; any alignment) to f32, exactly.
void widen_elements(const std::byte* source, DType dtype, int64_t count, float* out);

/// Index of the first element that is not finite, or -1.
int64_t first_non_finite(std::span<const float> values);

/// Quantizes one group of a row, w8: scale = bf16(max|w| / 127), code = 128 + clamp(round(w /
/// scale), -127, 127), so w ~ (code - 128) * scale. Error per element: at most 0.502 scale, plus
/// what bf16 cut off the scale at the largest element (0.25 scale). An all-zero group, or one below
/// 2^-100, has scale 0 and codes 128. Where 127 * scale would overflow (|w| near FLT_MAX), the
/// scale is the next smaller one: what is decoded is finite. Returns the scale's bf16 bits.
uint16_t quantize_group_w8(std::span<const float> weights, uint8_t* codes);

/// w4: code = 8 + clamp(round(w / scale), -8, 7), the scale being the one of kScaleCandidates
/// (bf16, positive or negative) with the least sum of squared errors among those that decode to
/// finite numbers; ties go to the first. Codes are one a byte here. Finite weights of any size.
uint16_t quantize_group_w4(std::span<const float> weights, uint8_t* codes);

/// fp8: one block of num_rows x num_cols, rows `stride` elements apart in weights and codes. scale
/// = max|w| / 448 in f32, code = e4m3(w * (1 / scale)), to nearest, so w ~ code * scale; zeros have
/// no sign. A block below 2^-100 has scale 0 and codes 0; where 448 * scale would overflow the
/// scale is the next smaller one. Error per element: at most w / 16, or 2^-10 scale where that is
/// more. Returns the scale.
float quantize_block_fp8(const float* weights, int64_t num_rows, int64_t num_cols, int64_t stride,
                         uint8_t* codes);

/// Rows of an FP8 weight that begin a block of rows: codes, and a scale for each block, row of
/// blocks by row of blocks.
void encode_fp8_rows(const engine::Weight& weight, std::span<const float> rows, uint8_t* codes,
                     float* scales);

/// A row as stored, of all formats but FP8. `row` has weight.cols() elements; codes and scales have
/// the row's share of the tensors of engine.proto's Weight (w4 packed two a byte). F32 and BF16
/// rows (round to nearest even) have no scales.
void encode_row(const engine::Weight& weight, std::span<const float> row, std::byte* codes,
                uint16_t* scales);

/// The inverse, for tests and error reports: what a kernel multiplies by.
void decode_row(const engine::Weight& weight, const std::byte* codes, const uint16_t* scales,
                std::span<float> row);

}  // namespace phalanx::builder
