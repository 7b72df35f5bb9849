// The packed layout against a naive reading of panel_layout.h, its size, and what is refused.
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/panel_matrix.h"
#include "runtime/base/check.h"
#include "tests/kernels/stored_matrix.h"

namespace phalanx::kernels::cpu {
namespace {

using test::StoredMatrix;

float scale_of(const MatrixSource& source, int64_t n, int64_t group) {
  int64_t index = n * source.scale_row_stride + group;
  if (source.format == WeightFormat::kFp8) {
    const int64_t first_col = source.first_col + group * source.group_size;
    index = (source.first_row + n) / source.scale_rows * source.scale_row_stride +
            first_col / source.scale_cols;
  }
  if (source.scale_dtype == DType::kF32) {
    float scale;
    std::memcpy(&scale, source.scales + index * 4, 4);
    return scale;
  }
  uint16_t bits;
  std::memcpy(&bits, source.scales + index * 2, 2);
  return source.scale_dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

/// Writes one row's codes of one group where panel_layout.h says, byte by byte.
void pack_codes_naively(const PanelLayout& layout, const std::byte* row, int64_t first_col,
                        int64_t place, std::byte* units) {
  for (int64_t i = 0; i < layout.group_cols; ++i) {
    const int64_t k = first_col + i;
    std::byte* unit = units + i / layout.codes_per_unit * 256 + place * 4;
    const int64_t in_unit = i % layout.codes_per_unit;
    switch (layout.format) {
      case WeightFormat::kF32:
        std::memcpy(unit, row + k * 4, 4);
        break;
      case WeightFormat::kBf16:
        std::memcpy(unit + in_unit * 2, row + k * 2, 2);
        break;
      case WeightFormat::kW8:
        unit[in_unit] = row[k];
        break;
      case WeightFormat::kW4: {
        const std::byte code = (row[k / 2] >> (k % 2 * 4)) & std::byte{15};
        unit[in_unit % 4] |= in_unit < 4 ? code : code << 4;
        break;
      }
      case WeightFormat::kFp8: {
        std::byte* four_rows = units + i / 4 * 256 + place / 4 * 16;
        four_rows[in_unit / 2 * 8 + place % 4 * 2 + in_unit % 2] = row[k];
        break;
      }
    }
  }
}

std::vector<std::byte> pack_naively(const MatrixSpec& spec, const PanelLayout& layout) {
  std::vector<std::byte> packed(static_cast<size_t>(layout.total_bytes(spec.bias != nullptr)));
  int64_t n = 0;
  for (const MatrixSource& source : spec.sources)
    for (int64_t row = 0; row < source.num_rows; ++row, ++n)
      for (int64_t group = 0; group < layout.num_lanes * layout.groups_per_lane; ++group) {
        const int64_t place = n % 64;
        std::byte* header =
            packed.data() + n / 64 * layout.panel_bytes + group * layout.group_bytes;
        if (is_quantized(layout.format)) {
          const float scale = scale_of(source, row, group);
          std::memcpy(header + place * 4, &scale, 4);
          if (layout.has_zeros)
            header[256 + place] = static_cast<std::byte>(
                source.zeros != nullptr ? source.zeros[row * source.scale_row_stride + group]
                                        : (layout.format == WeightFormat::kW8 ? 128 : 8));
        }
        pack_codes_naively(layout, source.codes + row * source.row_stride_bytes,
                           group * layout.group_cols, place, header + layout.header_bytes);
      }
  if (spec.bias != nullptr)
    std::memcpy(packed.data() + layout.bias_offset(), spec.bias, static_cast<size_t>(n) * 4);
  return packed;
}

void expect_packed_as_documented(const MatrixSpec& spec, bool has_zeros, const std::string& name) {
  const MatrixSource& first = spec.sources.front();
  int64_t num_rows = 0;
  for (const MatrixSource& source : spec.sources) num_rows += source.num_rows;
  for (int num_threads : {1, 3}) {
    ThreadTeam team(num_threads, false);
    const auto packed = pack_matrix(spec, team);
    EXPECT_EQ(packed->format(), first.format);
    EXPECT_EQ(packed->num_rows(), num_rows);
    EXPECT_EQ(packed->num_cols(), first.num_cols);
    EXPECT_EQ(packed->num_lanes(), spec.num_lanes);
    EXPECT_EQ(packed->bytes(),
              packed_matrix_bytes(first.format, num_rows, first.num_cols, first.group_size,
                                  spec.bias != nullptr, has_zeros, spec.num_lanes));
    const auto& panels = dynamic_cast<const PanelMatrix&>(*packed);
    const std::vector<std::byte> expected = pack_naively(spec, panels.layout());
    ASSERT_EQ(static_cast<int64_t>(expected.size()), packed->bytes());
    ASSERT_EQ(std::memcmp(panels.panels(), expected.data(), expected.size()), 0) << name;
  }
}

TEST(PackMatrixTest, EveryFormatIsPackedAsDocumented) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                              WeightFormat::kW4, WeightFormat::kFp8})
    for (int64_t num_rows : {1, 3, 4, 63, 64, 65, 130, 321})
      for (int64_t groups : {1, 3, 20})
        for (int64_t num_lanes : {1, 4}) {
          const int64_t group_size = is_quantized(format) ? 8 * (1 + num_rows % 9) : 0;
          const int64_t num_cols =
              num_lanes * groups * (group_size == 0 ? 1 + num_rows % 50 : group_size);
          const DType scales = groups == 1 ? DType::kF32 : groups == 3 ? DType::kF16 : DType::kBf16;
          const bool has_zeros = is_integer(format) && num_rows % 2 == 0;
          const StoredMatrix stored({format, num_rows, num_cols, group_size, has_zeros, scales}, 1);
          const auto bias = test::random_floats(static_cast<size_t>(num_rows), 2);
          expect_packed_as_documented(
              stored.spec(num_lanes, num_lanes == 4 ? bias.data() : nullptr), has_zeros,
              std::string(weight_format_name(format)) + " N=" + std::to_string(num_rows) +
                  " K=" + std::to_string(num_cols) + " G=" + std::to_string(group_size) +
                  " L=" + std::to_string(num_lanes));
        }
}

TEST(PackMatrixTest, BigMatricesComeFromHugePages) {
  const StoredMatrix stored({WeightFormat::kW8, 1024, 4096, 128}, 1);
  expect_packed_as_documented(stored.spec(2), false, "4 MiB");
  ThreadTeam team(1, false);
  const auto packed = pack_matrix(stored.spec(), team);
  EXPECT_EQ(
      reinterpret_cast<uintptr_t>(dynamic_cast<const PanelMatrix&>(*packed).panels()) % (2 << 20),
      0U);
}

TEST(PackMatrixTest, StackedSlicesArePackedAsDocumented) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                              WeightFormat::kW4, WeightFormat::kFp8}) {
    const int64_t group_size = is_quantized(format) ? 16 : 0;
    const StoredMatrix a({format, 90, 256, group_size, true, DType::kF16}, 1);
    const StoredMatrix b({format, 50, 256, group_size, false, DType::kF32}, 2);
    MatrixSpec spec;
    spec.sources = {a.slice(3, 61, 64, 128), b.slice(0, 1, 64, 128), b.slice(49, 0, 64, 128),
                    b.slice(7, 33, 64, 128), a.slice(80, 10, 0, 128)};
    spec.num_lanes = 2;
    expect_packed_as_documented(spec, is_integer(format), weight_format_name(format));
  }
}

TEST(PackMatrixTest, BrokenSpecsAreInternalErrors) {
  ThreadTeam team(1, false);
  const auto pack = [&team](const MatrixSpec& spec) { return pack_matrix(spec, team); };
  const StoredMatrix w8({WeightFormat::kW8, 8, 96, 32}, 1);
  const StoredMatrix f32({WeightFormat::kF32, 8, 96}, 1);
  EXPECT_THROW(pack(MatrixSpec{}), InternalError);
  EXPECT_THROW(pack(w8.spec(2)), InternalError);  // 32 does not divide a lane of 48
  EXPECT_THROW(pack(w8.spec(3)), InternalError);  // not a power of two
  EXPECT_THROW(pack(w8.spec(0)), InternalError);
  EXPECT_THROW(pack(f32.spec(64)), InternalError);  // does not divide 96
  EXPECT_THROW(pack(f32.spec(128)), InternalError);
  MatrixSpec spec = w8.spec();
  spec.sources.push_back(f32.source());
  EXPECT_THROW(pack(spec), InternalError);
  spec.sources[1] = w8.slice(0, 8, 0, 64);
  EXPECT_THROW(pack(spec), InternalError);
  spec.sources[1] = w8.source();
  spec.sources[1].group_size = 48;
  EXPECT_THROW(pack(spec), InternalError);
  spec.sources[1] = w8.source();
  spec.sources[1].scales = nullptr;
  EXPECT_THROW(pack(spec), InternalError);
  spec.sources[1] = w8.source();
  spec.sources[1].scale_dtype = DType::kI8;
  EXPECT_THROW(pack(spec), InternalError);
  for (int64_t group_size : {0, 4, 12, 96 * 1024}) {
    spec = w8.spec();
    spec.sources[0].group_size = group_size;
    EXPECT_THROW(pack(spec), InternalError) << group_size;
  }
}

/// What a slice of a matrix with scales by blocks must keep to.
TEST(PackMatrixTest, BrokenScaleBlocksAreInternalErrors) {
  ThreadTeam team(1, false);
  const StoredMatrix stored({WeightFormat::kFp8, 8, 96, 32, false, DType::kF32, 4, 64}, 1);
  const auto expect_refused = [&](const auto& breaks) {
    MatrixSpec spec;
    spec.sources = {stored.slice(2, 3, 32, 64)};
    EXPECT_NO_THROW(pack_matrix(spec, team));
    breaks(spec.sources[0]);
    EXPECT_THROW(pack_matrix(spec, team), InternalError);
  };
  expect_refused([](MatrixSource& s) { s.scale_rows = 0; });
  expect_refused([](MatrixSource& s) { s.scale_cols = 0; });
  expect_refused([](MatrixSource& s) { s.scale_cols = 48; });  // a group straddles two
  expect_refused([](MatrixSource& s) { s.first_col = 16; });   // begins inside a group
  expect_refused([](MatrixSource& s) { s.first_row = -1; });
  expect_refused([](MatrixSource& s) { s.scale_dtype = DType::kBf16; });
  const uint8_t zero = 0;
  expect_refused([&](MatrixSource& s) { s.zeros = &zero; });
}

}  // namespace
}  // namespace phalanx::kernels::cpu
