// Offsets and sizes of a packed matrix. Called by pack_matrix and by the memory ledger.
#include "kernels/cpu/panel_layout.h"

#include <string>

#include "runtime/base/check.h"

namespace phalanx::kernels {
namespace cpu {
namespace {

int64_t codes_in_unit(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return 1;
    case WeightFormat::kBf16:
      return 2;
    case WeightFormat::kW8:
    case WeightFormat::kFp8:
      return 4;
    case WeightFormat::kW4:
      return 8;
  }
  return 1;
}

}  // namespace

int64_t PanelLayout::total_bytes(bool has_bias) const {
  return num_panels * (panel_bytes + (has_bias ? kPanelRows * 4 : 0));
}

PanelLayout make_panel_layout(WeightFormat format, int64_t num_rows, int64_t num_cols,
                              int64_t num_lanes, int64_t group_size, bool has_zeros) {
  PHALANX_CHECK_GE(num_rows, 0, "num_rows of a matrix");
  PHALANX_CHECK_GT(num_cols, 0, "num_cols of a matrix");
  PHALANX_CHECK(num_lanes >= 1 && num_lanes <= kMaxLanes && (num_lanes & (num_lanes - 1)) == 0,
                "num_lanes must be a power of two from 1 to 64, got " + std::to_string(num_lanes));
  PHALANX_CHECK_EQ(num_cols % num_lanes, 0, "num_lanes must divide num_cols");
  PanelLayout layout;
  layout.format = format;
  layout.num_rows = num_rows;
  layout.num_cols = num_cols;
  layout.num_lanes = num_lanes;
  layout.codes_per_unit = codes_in_unit(format);
  layout.lane_cols = num_cols / num_lanes;
  if (is_quantized(format)) {
    PHALANX_CHECK(
        group_size > 0 && group_size % 8 == 0 && group_size <= kMaxGroupSize,
        "group_size must be a multiple of 8 up to 65536, got " + std::to_string(group_size));
    PHALANX_CHECK_EQ(layout.lane_cols % group_size, 0, "group_size must divide a lane");
    layout.has_zeros = has_zeros;
    layout.group_size = group_size;
    layout.group_cols = group_size;
    layout.header_bytes = kPanelScaleBytes + (has_zeros ? kPanelZeroBytes : 0);
  } else {
    layout.group_cols = layout.lane_cols;
  }
  layout.groups_per_lane = layout.lane_cols / layout.group_cols;
  layout.units_per_group = (layout.group_cols + layout.codes_per_unit - 1) / layout.codes_per_unit;
  layout.group_bytes = layout.header_bytes + layout.units_per_group * kPanelUnitBytes;
  layout.lane_bytes = layout.groups_per_lane * layout.group_bytes;
  layout.panel_bytes = num_lanes * layout.lane_bytes;
  layout.num_panels = (num_rows + kPanelRows - 1) / kPanelRows;
  return layout;
}

}  // namespace cpu

int64_t packed_matrix_bytes(WeightFormat format, int64_t num_rows, int64_t num_cols,
                            int64_t group_size, bool has_bias, bool has_zeros, int64_t num_lanes) {
  return cpu::make_panel_layout(format, num_rows, num_cols, num_lanes, group_size, has_zeros)
      .total_bytes(has_bias);
}

}  // namespace phalanx::kernels
