// Packs stacked natural-layout matrices into panels. Called by cpu_operators while a model loads.
//
// Every format moves units of 4 bytes from [64 rows][units] to [units][64 rows]; w4 also spreads
// the 8 nibbles of a unit, and e4m3 groups the pairs of codes of four rows. Reads take 256 bytes of
// a row at a time (whole lines, few pages at once) and writes stay within 16 KiB, so both sides run
// from L1.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "kernels/cpu/huge_memory.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/panel_layout.h"
#include "kernels/cpu/panel_matrix.h"
#include "kernels/operator_checks.h"
#include "runtime/base/check.h"
#include "runtime/base/dtype.h"

namespace phalanx::kernels::cpu {
namespace {

/// Units of a row moved before the next rows' turn: 256 bytes of each row.
constexpr int64_t kUnitsPerPass = 64;

/// A row's next piece is far from what the other 63 rows make the processor fetch by itself.
constexpr int64_t kFetchAheadBytes = 512;

using Units4 = uint32_t __attribute__((vector_size(16)));

/// Where row n of a panel comes from; source null for padding.
struct PanelRow {
  const MatrixSource* source = nullptr;
  const std::byte* codes = nullptr;
  int64_t row = 0;  ///< of the source
};
using PanelRowArray = std::array<PanelRow, kPanelRows>;

/// Nibbles c0..c7 (low first) become bytes c0 | c4 << 4, c1 | c5 << 4, ... Word is uint32_t or
/// Units4.
template <typename Word>
Word spread_nibbles(Word unit) {
  const auto spread = [](Word half) {
    half = (half | (half << 8)) & 0x00ff00ffU;
    return (half | (half << 4)) & 0x0f0f0f0fU;
  };
  return spread(unit & 0xffffU) | (spread(unit >> 16) << 4);
}

/// How the codes of a unit lie in a panel.
enum class UnitOrder { kStored, kNibbles, kPairs };

UnitOrder unit_order(WeightFormat format) {
  if (format == WeightFormat::kW4) return UnitOrder::kNibbles;
  return format == WeightFormat::kFp8 ? UnitOrder::kPairs : UnitOrder::kStored;
}

/// `to` is the unit's place of the first of four rows, of which this is row `place`.
template <UnitOrder kOrder>
void move_unit(const std::byte* from, int64_t place, std::byte* to) {
  if constexpr (kOrder == UnitOrder::kPairs) {
    std::memcpy(to + place * 2, from, 2);
    std::memcpy(to + 8 + place * 2, from + 2, 2);
    return;
  }
  uint32_t unit;
  std::memcpy(&unit, from, kUnitBytes);
  if constexpr (kOrder == UnitOrder::kNibbles) unit = spread_nibbles(unit);
  std::memcpy(to + place * kUnitBytes, &unit, kUnitBytes);
}

using Pairs8 = uint16_t __attribute__((vector_size(16)));

/// The units of four rows, side by side, as the order wants them.
template <UnitOrder kOrder>
Units4 ordered(Units4 units) {
  if constexpr (kOrder != UnitOrder::kPairs) return units;
  const auto pairs = reinterpret_cast<Pairs8>(units);
  return reinterpret_cast<Units4>(__builtin_shufflevector(pairs, pairs, 0, 2, 4, 6, 1, 3, 5, 7));
}

/// 4 rows by 4 units at a time; `to` is the first unit's place of the first of four rows.
template <UnitOrder kOrder>
void move_four_rows(const std::array<const std::byte*, 4>& rows, int64_t num_units, std::byte* to) {
  int64_t unit = 0;
  for (; unit + 4 <= num_units; unit += 4) {
    if (unit % 16 == 0)
      for (const std::byte* row : rows)
        __builtin_prefetch(row + unit * kUnitBytes + kFetchAheadBytes);
    std::array<Units4, 4> in;
    for (size_t i = 0; i < 4; ++i) {
      std::memcpy(&in[i], rows[i] + unit * kUnitBytes, sizeof(Units4));
      if constexpr (kOrder == UnitOrder::kNibbles) in[i] = spread_nibbles(in[i]);
    }
    const Units4 low01 = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5);
    const Units4 high01 = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7);
    const Units4 low23 = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5);
    const Units4 high23 = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
    const std::array<Units4, 4> out = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                                       __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                                       __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                                       __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
    for (size_t i = 0; i < 4; ++i) {
      const Units4 units = ordered<kOrder>(out[i]);
      std::memcpy(to + (unit + static_cast<int64_t>(i)) * kPanelUnitBytes, &units, sizeof(Units4));
    }
  }
  for (; unit < num_units; ++unit)
    for (size_t i = 0; i < 4; ++i)
      move_unit<kOrder>(rows[i] + unit * kUnitBytes, static_cast<int64_t>(i),
                        to + unit * kPanelUnitBytes);
}

/// Moves `num_units` whole units that start `offset` bytes into each row.
template <UnitOrder kOrder>
void move_units(const PanelRowArray& rows, int64_t offset, int64_t num_units, std::byte* to) {
  for (int64_t first = 0; first < num_units; first += kUnitsPerPass) {
    const int64_t count = std::min(kUnitsPerPass, num_units - first);
    const int64_t from = offset + first * kUnitBytes;
    std::byte* pass = to + first * kPanelUnitBytes;
    for (size_t n = 0; n < rows.size(); n += 4) {
      std::byte* place = pass + static_cast<int64_t>(n) * kUnitBytes;
      if (rows[n + 3].source != nullptr) {
        move_four_rows<kOrder>({rows[n].codes + from, rows[n + 1].codes + from,
                                rows[n + 2].codes + from, rows[n + 3].codes + from},
                               count, place);
        continue;
      }
      for (size_t i = n; i < n + 4 && rows[i].source != nullptr; ++i)
        for (int64_t unit = 0; unit < count; ++unit)
          move_unit<kOrder>(rows[i].codes + from + unit * kUnitBytes, static_cast<int64_t>(i - n),
                            place + unit * kPanelUnitBytes);
    }
  }
}

void pack_header(const PanelLayout& layout, const PanelRowArray& rows, int64_t group,
                 std::byte* to) {
  std::array<float, kPanelRows> scales{};
  std::array<uint8_t, kPanelRows> zeros{};
  for (size_t n = 0; n < rows.size() && rows[n].source != nullptr; ++n) {
    const MatrixSource& source = *rows[n].source;
    const int64_t index = scale_index(source, rows[n].row, group);
    scales[n] = stored_scale(source, index);
    if (source.zeros != nullptr)
      zeros[n] = source.zeros[index];
    else
      zeros[n] = layout.format == WeightFormat::kW8 ? 128 : 8;
  }
  std::memcpy(to, scales.data(), kPanelScaleBytes);
  if (layout.has_zeros) std::memcpy(to + kPanelScaleBytes, zeros.data(), kPanelZeroBytes);
}

void pack_panel(const PanelLayout& layout, const PanelRowArray& rows, std::byte* panel) {
  const bool quantized = layout.group_size > 0;
  const int64_t whole_units = layout.group_cols / layout.codes_per_unit;
  for (int64_t lane = 0; lane < layout.num_lanes; ++lane) {
    for (int64_t group = 0; group < layout.groups_per_lane; ++group) {
      const int64_t group_index = lane * layout.groups_per_lane + group;
      std::byte* to = panel + group_index * layout.group_bytes;
      if (quantized) pack_header(layout, rows, group_index, to);
      to += layout.header_bytes;
      const int64_t offset = group_index * layout.group_cols * kUnitBytes / layout.codes_per_unit;
      switch (unit_order(layout.format)) {
        case UnitOrder::kStored:
          move_units<UnitOrder::kStored>(rows, offset, whole_units, to);
          break;
        case UnitOrder::kNibbles:
          move_units<UnitOrder::kNibbles>(rows, offset, whole_units, to);
          break;
        case UnitOrder::kPairs:
          move_units<UnitOrder::kPairs>(rows, offset, whole_units, to);
          break;
      }
      if (whole_units == layout.units_per_group) continue;
      for (size_t n = 0; n < rows.size() && rows[n].source != nullptr; ++n)  // a lone bf16 code
        std::memcpy(to + whole_units * kPanelUnitBytes + static_cast<int64_t>(n) * kUnitBytes,
                    rows[n].codes + offset + whole_units * kUnitBytes, 2);
    }
  }
}

void check_source(const MatrixSource& source, const MatrixSource& first) {
  PHALANX_CHECK(source.format == first.format, "stacked sources must have one format");
  PHALANX_CHECK_EQ(source.num_cols, first.num_cols, "stacked sources must have one num_cols");
  PHALANX_CHECK_GE(source.num_rows, 0, "num_rows of a source");
  PHALANX_CHECK(source.codes != nullptr || source.num_rows == 0, "a source needs codes");
  if (!is_quantized(source.format)) return;
  PHALANX_CHECK_EQ(source.group_size, first.group_size, "stacked sources must have one group_size");
  PHALANX_CHECK(source.scales != nullptr || source.num_rows == 0,
                "a quantized source needs scales");
  PHALANX_CHECK(source.scale_dtype == DType::kF32 || source.scale_dtype == DType::kF16 ||
                    source.scale_dtype == DType::kBf16,
                "scale_dtype must be f32, f16 or bf16");
  check_scale_blocks(source);
}

/// Rows [64 panel, 64 panel + 64) of the stacked sources.
PanelRowArray panel_rows(const MatrixSpec& spec, int64_t panel) {
  PanelRowArray rows;
  int64_t first = panel * kPanelRows;  // relative to the source at hand
  size_t place = 0;
  for (const MatrixSource& source : spec.sources) {
    for (; first < source.num_rows && place < rows.size(); ++first, ++place) {
      rows[place].source = &source;
      rows[place].codes = source.codes + first * source.row_stride_bytes;
      rows[place].row = first;
    }
    first -= source.num_rows;
  }
  return rows;
}

}  // namespace

PanelMatrix::PanelMatrix(const PanelLayout& layout, bool has_bias)
    : layout_(layout), has_bias_(has_bias), memory_(allocate_zeroed(layout.total_bytes(has_bias))) {
  format_ = layout.format;
  num_rows_ = layout.num_rows;
  num_cols_ = layout.num_cols;
  num_lanes_ = layout.num_lanes;
  group_size_ = layout.group_size;
  bytes_ = layout.total_bytes(has_bias);
}

float* PanelMatrix::bias() {
  return has_bias_ ? reinterpret_cast<float*>(memory_.get() + layout_.bias_offset()) : nullptr;
}
const float* PanelMatrix::bias() const { return const_cast<PanelMatrix*>(this)->bias(); }

float stored_scale(const MatrixSource& source, int64_t index) {
  if (source.scale_dtype == DType::kF32) {
    float scale;
    std::memcpy(&scale, source.scales + index * 4, 4);
    return scale;
  }
  uint16_t bits;
  std::memcpy(&bits, source.scales + index * 2, 2);
  return source.scale_dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

std::unique_ptr<PackedMatrix> pack_matrix(const MatrixSpec& spec, ThreadTeam& team) {
  PHALANX_CHECK(!spec.sources.empty(), "a matrix needs a source");
  const MatrixSource& first = spec.sources.front();
  int64_t num_rows = 0;
  bool has_zeros = false;
  for (const MatrixSource& source : spec.sources) {
    check_source(source, first);
    num_rows += source.num_rows;
    has_zeros = has_zeros || source.zeros != nullptr;
  }
  const PanelLayout layout = make_panel_layout(first.format, num_rows, first.num_cols,
                                               spec.num_lanes, first.group_size, has_zeros);
  auto matrix = std::make_unique<PanelMatrix>(layout, spec.bias != nullptr);
  // The same split as linear's, so that a panel's pages lie near the thread that reads them.
  team.split(layout.num_panels, 1, [&](int64_t begin, int64_t end) {
    uint64_t* tally = team.tally();
    for (int64_t panel = begin; panel < end; ++panel) {
      pack_panel(layout, panel_rows(spec, panel), matrix->panels() + panel * layout.panel_bytes);
      count_piece(tally);
    }
  });
  if (spec.bias != nullptr)
    std::memcpy(matrix->bias(), spec.bias, static_cast<size_t>(num_rows) * sizeof(float));
  return matrix;
}

}  // namespace phalanx::kernels::cpu
