// What linear.cpp hands to an instruction-set tier, and the tiers' entry points.
// Called by linear.cpp; fulfilled by linear_portable.cpp, linear_avx2*.cpp and linear_avx512.cpp.
//
// The tier files are compiled with flags that not every processor runs. So nothing here may compile
// to code outside their anonymous namespaces: plain data only, no inline functions, no std types.
#pragma once

#include <cstdint>

namespace phalanx::kernels::cpu {

/// One thread's share of a conversion of f32 rows.
struct ConvertTask {
  const float* x;
  int64_t x_stride;  ///< elements
  int64_t num_cols;
  int64_t group_size;     ///< s8 and e4m3 only
  uint8_t* codes;         ///< row 0
  int64_t codes_stride;   ///< bytes from one row to the next
  float* scales;          ///< s8 and e4m3 only
  int32_t* sums;          ///< s8 only
  int64_t groups_stride;  ///< of scales and sums, elements from one row to the next
  int64_t row_begin;
  int64_t row_end;
};

/// What becomes of a product whose outputs are gates, then as many factors: silu(gate) * factor,
/// converted for the next product. A block of panels of both halves is computed into scratch, and
/// leaves as codes.
struct GatedOutput {
  int64_t num_panels;    ///< of a half; 0: the product is a plain one
  int64_t block_panels;  ///< holds whole groups of `out`
  float* scratch;        ///< [rows of the task][64 * block_panels]
  void (*silu_mul)(const float* gate, const float* up, int64_t num_cols, float* y);
  void (*convert)(const ConvertTask& task);
  int64_t code_bytes;  ///< of out
  ConvertTask out;  ///< its codes, scales, sums and strides; the rest is filled in block by block
};

/// One thread's share of a product: panels [panel_begin, panel_end) of rows [row_begin, row_end);
/// of a gated one those panels of both halves. Offsets are those of PanelLayout; x rows are
/// contiguous codes of the form the weights want.
struct LinearTask {
  const uint8_t* panels;
  int64_t panel_bytes;
  int64_t lane_bytes;
  int64_t group_bytes;
  int64_t header_bytes;
  int64_t num_lanes;
  int64_t groups_per_lane;
  int64_t units_per_group;
  bool has_zeros;       ///< else the zero is 128 (w8) or 8 (w4)
  bool odd_lane;        ///< bf16: the last unit of a lane holds one code
  int64_t num_outputs;  ///< N
  const float* bias;    ///< [64 * panels] or null

  const uint8_t* x;       ///< row 0
  int64_t x_row_bytes;    ///< from one row to the next
  int64_t x_lane_bytes;   ///< from one lane to the next
  const float* x_scales;  ///< [R, groups]; quantized only
  const int32_t* x_sums;  ///< [R, groups]; w8 and w4 only
  int64_t x_groups;       ///< groups of a row

  float* y;          ///< not of a gated product
  int64_t y_stride;  ///< elements
  GatedOutput gated;

  int64_t panel_begin;
  int64_t panel_end;
  bool is_cold;  ///< nobody has fetched panel_begin
  bool goes_on;  ///< the thread goes on with panel_end: worth fetching ahead
  int64_t row_begin;
  int64_t row_end;

  int64_t tile_rows;    ///< rows of a tile at most; 0: as many as the tier's micro-kernels take
  int64_t ahead_bytes;  ///< LinearTuning::ahead_bytes

  uint64_t* tally;  ///< the thread's, of a WorkCounter: one more for every tile
};

struct LinearTier {
  void (*multiply_f32)(const LinearTask& task);
  void (*multiply_bf16)(const LinearTask& task);
  void (*multiply_w8)(const LinearTask& task);
  void (*multiply_w4)(const LinearTask& task);
  void (*multiply_fp8)(const LinearTask& task);
  void (*convert_f32)(const ConvertTask& task);
  void (*convert_bf16)(const ConvertTask& task);
  void (*convert_s8)(const ConvertTask& task);
  void (*convert_e4m3)(const ConvertTask& task);
  int64_t tile_rows;  ///< of its largest micro-kernel
};

/// Null where the build has no such tier (another processor family).
const LinearTier* portable_linear_tier();
const LinearTier* avx2_linear_tier();
const LinearTier* avx2_vnni_vex_linear_tier();
const LinearTier* avx2_vnni_evex_linear_tier();
const LinearTier* avx512_linear_tier();

}  // namespace phalanx::kernels::cpu
