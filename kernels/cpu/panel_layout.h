// The CPU's packed form of a matrix: panels of 64 outputs, shared by every instruction-set tier.
// Made by pack_matrix, read by linear.
//
// A row of a lane is cut in units of 4 bytes: one f32 code, two bf16, four w8 or e4m3, or eight w4
// codes (byte i of a w4 unit holds code i in its low nibble and code i + 4 in its high one). A
// panel holds unit u of its 64 rows side by side (256 bytes, four cache lines), then unit u + 1; of
// e4m3 units every four rows' first pairs of codes (8 bytes), then the second pairs of the same
// rows, so that widening a line to bf16 by interleaving bytes leaves pairs of sixteen rows in
// order. Quantized panels put each group's scales, and zeros if the matrix has any, right before
// the group's units, so that a product reads one ascending stream of memory:
//   panel p: lane 0: group 0: f32 scale[64], (u8 zero[64],) units[G / codes per unit][64]
//                    group 1: ...
//            lane 1: ...
//   after the last panel: f32 bias[64 * panels], when there is one.
// Rows beyond N are zero codes with scale 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/operators.h"

namespace phalanx::kernels::cpu {

inline constexpr int64_t kPanelRows = 64;
inline constexpr int64_t kUnitBytes = 4;
inline constexpr int64_t kPanelUnitBytes = kPanelRows * kUnitBytes;
inline constexpr int64_t kPanelScaleBytes = kPanelRows * 4;
inline constexpr int64_t kPanelZeroBytes = kPanelRows;
/// Bounds linear's scratch on the stack.
inline constexpr int64_t kMaxLanes = 64;
/// 255 * 127 * group_size must stay below 2^31.
inline constexpr int64_t kMaxGroupSize = 65536;

/// Where things lie in a packed matrix. A group of a float matrix is a whole lane without header.
struct PanelLayout {
  WeightFormat format = WeightFormat::kF32;
  bool has_zeros = false;
  int64_t num_rows = 0;
  int64_t num_cols = 0;
  int64_t num_lanes = 1;
  int64_t group_size = 0;  ///< 0 for kF32 and kBf16

  int64_t codes_per_unit = 1;
  int64_t lane_cols = 0;
  int64_t groups_per_lane = 1;
  int64_t group_cols = 0;       ///< codes of a row in a group: group_size, or lane_cols for floats
  int64_t units_per_group = 0;  ///< rounded up (an odd lane of bf16)
  int64_t header_bytes = 0;
  int64_t group_bytes = 0;
  int64_t lane_bytes = 0;
  int64_t panel_bytes = 0;
  int64_t num_panels = 0;

  int64_t bias_offset() const { return num_panels * panel_bytes; }
  int64_t total_bytes(bool has_bias) const;
};

/// Errors: InternalError when num_lanes is not a power of two in [1, kMaxLanes] that divides
/// num_cols, or, for quantized formats, group_size is not a multiple of 8 up to kMaxGroupSize that
/// divides a lane.
PanelLayout make_panel_layout(WeightFormat format, int64_t num_rows, int64_t num_cols,
                              int64_t num_lanes, int64_t group_size, bool has_zeros);

}  // namespace phalanx::kernels::cpu
