// Every tier of linear against the scalar oracle, by bits; and what law 1 asks of a product: rows,
// threads and tensor-parallel slices cannot change bits.
#include "kernels/cpu/linear.h"

#include <cfloat>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/reference/linear_reference.h"
#include "runtime/base/check.h"
#include "tests/kernels/float_rows.h"
#include "tests/kernels/stored_matrix.h"

namespace phalanx::kernels {
namespace {

using test::bits_of;
using test::OwnedActivation;
using test::random_floats;
using test::StoredMatrix;
using test::StoredMatrixShape;

std::vector<IsaTier> available_tiers() {
  std::vector<IsaTier> tiers;
  for (IsaTier tier : kIsaTiers)
    if (tier <= best_isa_tier()) tiers.push_back(tier);
  return tiers;
}

/// The rows of x a linear by `spec` reads, converted by the oracle.
OwnedActivation converted(const MatrixSpec& spec, const std::vector<float>& x, int64_t num_rows) {
  const MatrixSource& source = spec.sources.front();
  OwnedActivation out(activation_form(source.format), num_rows, source.num_cols, source.group_size);
  reference::convert_rows({x.data(), source.num_cols}, num_rows, out.view);
  return out;
}

int64_t total_rows(const MatrixSpec& spec) {
  int64_t rows = 0;
  for (const MatrixSource& source : spec.sources) rows += source.num_rows;
  return rows;
}

/// y with a stride past N; the gap must stay untouched.
constexpr int64_t kGap = 5;
constexpr float kUntouched = 12345.0F;

std::vector<float> untouched(const MatrixSpec& spec, int64_t num_rows) {
  return std::vector<float>(static_cast<size_t>(num_rows * (total_rows(spec) + kGap)), kUntouched);
}

std::vector<float> oracle(const MatrixSpec& spec, const ActivationView& x, int64_t num_rows) {
  std::vector<float> y = untouched(spec, num_rows);
  reference::linear(*reference::pack_matrix(spec), x, num_rows,
                    {y.data(), total_rows(spec) + kGap});
  return y;
}

std::vector<float> product(const MatrixSpec& spec, const ActivationView& x, int64_t num_rows,
                           IsaTier tier, cpu::ThreadTeam& team) {
  std::vector<float> y = untouched(spec, num_rows);
  const auto matrix = cpu::pack_matrix(spec, team);
  cpu::linear(*matrix, x, num_rows, {y.data(), total_rows(spec) + kGap}, tier, team);
  return y;
}

struct Case {
  StoredMatrixShape shape;
  int64_t num_lanes = 1;
  int64_t num_rows = 1;
  bool has_bias = false;
};

std::string name_of(const Case& c, IsaTier tier) {
  return std::string(weight_format_name(c.shape.format)) + " " + isa_tier_name(tier) +
         " N=" + std::to_string(c.shape.num_rows) + " K=" + std::to_string(c.shape.num_cols) +
         " G=" + std::to_string(c.shape.group_size) + " L=" + std::to_string(c.num_lanes) +
         " R=" + std::to_string(c.num_rows) + (c.shape.has_zeros ? " zeros" : "") +
         (c.has_bias ? " bias" : "");
}

void expect_tiers_match_oracle(const Case& c) {
  const StoredMatrix stored(c.shape, 1);
  const auto bias = random_floats(static_cast<size_t>(c.shape.num_rows), 2);
  const MatrixSpec spec = stored.spec(c.num_lanes, c.has_bias ? bias.data() : nullptr);
  const auto x = random_floats(static_cast<size_t>(c.num_rows * c.shape.num_cols), 3);
  const OwnedActivation rows = converted(spec, x, c.num_rows);
  const auto expected = bits_of(oracle(spec, rows.view, c.num_rows));
  cpu::ThreadTeam team(1, false);
  for (IsaTier tier : available_tiers())
    ASSERT_EQ(bits_of(product(spec, rows.view, c.num_rows, tier, team)), expected)
        << name_of(c, tier);
}

TEST(LinearTest, FloatFormatsMatchTheOracle) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16})
    for (int64_t num_outputs : {1, 63, 64, 65, 200})
      for (int64_t num_cols : {8, 24, 136, 520})
        for (int64_t num_lanes : {1, 2, 4, 8})
          for (int64_t num_rows : {1, 2, 3, 4, 5, 6, 7, 13})
            expect_tiers_match_oracle({{format, num_outputs, num_cols},
                                       num_lanes,
                                       num_rows,
                                       (num_outputs + num_rows) % 2 == 0});
}

TEST(LinearTest, FloatFormatsTakeAnyNumberOfColumns) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16})
    for (int64_t num_cols : {1, 2, 3, 5, 17, 63, 129})
      for (int64_t num_lanes : {1, 2, 4}) {
        // 4, 8, 12... columns in 4 lanes leave lanes of odd length.
        const Case c{{format, 70, num_cols * num_lanes}, num_lanes, 7, false};
        expect_tiers_match_oracle(c);
      }
}

TEST(LinearTest, QuantizedFormatsMatchTheOracle) {
  int variant = 0;
  for (WeightFormat format : {WeightFormat::kW8, WeightFormat::kW4, WeightFormat::kFp8})
    for (int64_t group_size : {8, 32, 64, 128})
      for (int64_t groups_per_lane : {1, 2, 5})
        for (int64_t num_lanes : {1, 2, 4, 8})
          for (int64_t num_outputs : {1, 64, 131})
            for (int64_t num_rows : {1, 2, 3, 4, 5, 6, 11}) {
              if (num_outputs * num_rows * groups_per_lane * num_lanes * group_size > 4'000'000)
                continue;
              ++variant;
              const DType scale_dtype = variant % 3 == 0   ? DType::kF32
                                        : variant % 3 == 1 ? DType::kF16
                                                           : DType::kBf16;
              expect_tiers_match_oracle(
                  {{format, num_outputs, group_size * groups_per_lane * num_lanes, group_size,
                    variant % 2 == 0, scale_dtype},
                   num_lanes,
                   num_rows,
                   variant % 5 == 0});
            }
}

TEST(LinearTest, GroupsMayBeAsLongAsARow) {
  for (WeightFormat format : {WeightFormat::kW8, WeightFormat::kW4, WeightFormat::kFp8})
    for (bool has_zeros : {false, true})
      expect_tiers_match_oracle({{format, 66, 4104, 4104, has_zeros}, 1, 3, false});
}

TEST(LinearTest, EveryRowCountMatchesTheOracle) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                              WeightFormat::kW4, WeightFormat::kFp8})
    for (int64_t num_rows = 1; num_rows <= 33; ++num_rows)
      expect_tiers_match_oracle(
          {{format, 80, 128, is_quantized(format) ? 32 : 0, true}, 2, num_rows, num_rows % 2 == 0});
}

/// All codes and activations at their extremes: where a saturating dot product would fail.
TEST(LinearTest, ExtremeCodesDoNotSaturate) {
  constexpr int64_t kCols = 256;
  const std::vector<std::byte> codes(static_cast<size_t>(64 * kCols), std::byte{0xff});
  const std::vector<float> scales(static_cast<size_t>(64 * kCols / 64), 1.0F);
  const std::vector<uint8_t> zeros(scales.size(), 0);
  for (WeightFormat format : {WeightFormat::kW8, WeightFormat::kW4}) {
    for (float sign : {1.0F, -1.0F}) {
      MatrixSource source;
      source.format = format;
      source.num_rows = 64;
      source.num_cols = kCols;
      source.codes = codes.data();
      source.row_stride_bytes = kCols;
      source.scales = reinterpret_cast<const std::byte*>(scales.data());
      source.scale_row_stride = kCols / 64;
      source.zeros = zeros.data();
      source.group_size = 64;
      MatrixSpec spec;
      spec.sources = {source};
      const std::vector<float> x(static_cast<size_t>(2 * kCols), sign * 127.0F);
      const OwnedActivation rows = converted(spec, x, 2);
      ASSERT_EQ(static_cast<int8_t>(rows.view.codes[0]), sign > 0 ? 127 : -127);
      const float expected = sign * 127.0F * kCols * (format == WeightFormat::kW8 ? 255.0F : 15.0F);
      cpu::ThreadTeam team(1, false);
      for (IsaTier tier : available_tiers()) {
        const auto y = product(spec, rows.view, 2, tier, team);
        ASSERT_EQ(y[0], expected) << isa_tier_name(tier);
        ASSERT_EQ(bits_of(y), bits_of(oracle(spec, rows.view, 2))) << isa_tier_name(tier);
      }
    }
  }
}

/// Every pair of codes, and groups of the largest: sums beyond f32's whole numbers.
TEST(LinearTest, EveryPairOfE4m3CodesMultipliesAlike) {
  constexpr int64_t kOutputs = 256, kCols = 512;
  std::vector<std::byte> codes(static_cast<size_t>(kOutputs * kCols));
  std::vector<float> x(static_cast<size_t>(kCols));
  for (int64_t k = 0; k < kCols; ++k) x[static_cast<size_t>(k)] = k % 8 == 0 ? 448.0F : 0.0F;
  for (int64_t k = 0; k < kCols; ++k)
    if (k % 8 != 0) x[static_cast<size_t>(k)] = e4m3_to_f32(static_cast<uint8_t>(k % 0x7f));
  std::mt19937 random(3);
  for (int64_t n = 0; n < kOutputs; ++n)
    for (int64_t k = 0; k < kCols; ++k) {
      auto code = static_cast<uint8_t>(n);  // of every column; a few others beside it
      if ((n & 0x7f) == 0x7f || k % 3 == 2) code = static_cast<uint8_t>(random() % 0x7f);
      codes[static_cast<size_t>(n * kCols + k)] = static_cast<std::byte>(code);
    }
  const float scale = 1.0F;
  for (int64_t group_size : {8, 128, 512}) {
    MatrixSource source;
    source.format = WeightFormat::kFp8;
    source.num_rows = kOutputs;
    source.num_cols = kCols;
    source.codes = codes.data();
    source.row_stride_bytes = kCols;
    source.scales = reinterpret_cast<const std::byte*>(&scale);
    source.scale_row_stride = 1;
    source.group_size = group_size;
    source.scale_rows = kOutputs;
    source.scale_cols = kCols;
    MatrixSpec spec;
    spec.sources = {source};
    const OwnedActivation rows = converted(spec, x, 1);
    ASSERT_EQ(rows.view.scales[0], 1.0F);
    const auto expected = oracle(spec, rows.view, 1);
    // Code 1 is 2^-9: what the oracle makes of it is a sum of exact products.
    double sum = 0;
    for (int64_t k = 0; k < kCols; ++k)
      sum += static_cast<double>(e4m3_to_f32(std::to_integer<uint8_t>(codes[kCols + k]))) *
             static_cast<double>(x[static_cast<size_t>(k)]);
    EXPECT_NEAR(expected[1], sum, 1e-5 * sum);
    cpu::ThreadTeam team(1, false);
    for (IsaTier tier : available_tiers())
      ASSERT_EQ(bits_of(product(spec, rows.view, 1, tier, team)), bits_of(expected))
          << isa_tier_name(tier) << " G=" << group_size;
  }
}

/// Per tensor, per row and by ragged blocks; stacked sources each in their own way; slices that
/// begin inside a block of rows or of columns.
TEST(LinearTest, ScalesOfE4m3MayLieInBlocks) {
  constexpr int64_t kCols = 320, kRowCount = 3;
  const StoredMatrix tensor({WeightFormat::kFp8, 150, kCols, 32, false, DType::kF32, 150, kCols},
                            1);
  const StoredMatrix row({WeightFormat::kFp8, 70, kCols, 32, false, DType::kF32, 1, kCols}, 2);
  const StoredMatrix block({WeightFormat::kFp8, 200, kCols, 32, false, DType::kF32, 128, 128}, 3);
  MatrixSpec spec;
  spec.sources = {tensor.slice(10, 100, 64, 256), row.slice(3, 67, 64, 256),
                  block.slice(100, 77, 64, 256)};
  spec.num_lanes = 4;
  const auto x = random_floats(kRowCount * 256, 6);
  const OwnedActivation rows = converted(spec, x, kRowCount);
  const auto expected = oracle(spec, rows.view, kRowCount);
  // The block's last row of the slice is row 176 of the matrix, in its second row of blocks.
  const MatrixSource& source = spec.sources[2];
  const auto scale = [&](int64_t n, int64_t k) {
    float value;
    std::memcpy(&value,
                source.scales + ((100 + n) / 128 * source.scale_row_stride + (64 + k) / 128) * 4,
                4);
    return static_cast<double>(value);
  };
  for (int64_t n : {0, 27, 28, 76}) {
    double sum = 0;
    for (int64_t k = 0; k < 256; ++k) {
      const auto code = std::to_integer<uint8_t>(source.codes[n * source.row_stride_bytes + k]);
      const auto of_x = std::to_integer<uint8_t>(rows.view.codes[k]);
      sum += static_cast<double>(e4m3_to_f32(code)) * scale(n, k) *
             static_cast<double>(e4m3_to_f32(of_x)) * static_cast<double>(rows.view.scales[k / 32]);
    }
    EXPECT_NEAR(expected[static_cast<size_t>(167 + n)], sum, 1e-4 * std::fabs(sum) + 1e-3);
  }
  cpu::ThreadTeam team(2, false);
  for (IsaTier tier : available_tiers())
    ASSERT_EQ(bits_of(product(spec, rows.view, kRowCount, tier, team)), bits_of(expected))
        << isa_tier_name(tier);
}

/// Denormal inputs, products that underflow, sums that cancel to denormals, and signed zeros.
TEST(LinearTest, Bf16FlushesDenormalsAlikeInAllTiers) {
  std::mt19937 random(7);
  const auto tiny = [&random] {
    const auto exponent = static_cast<uint32_t>(random() % 4 == 0 ? 0 : 60 + random() % 8);
    const auto rest = static_cast<uint32_t>(random()) & 0x807f0000U;
    return std::bit_cast<float>(rest | (exponent << 23));
  };
  constexpr int64_t kOutputs = 192, kCols = 96, kRowCount = 12;
  StoredMatrix stored({WeightFormat::kBf16, kOutputs, kCols}, 1);
  for (int64_t n = 0; n < kOutputs; ++n)
    for (int64_t k = 0; k < kCols; ++k) stored.set(n, k, tiny());
  std::vector<float> x(static_cast<size_t>(kRowCount * kCols));
  for (float& value : x) value = tiny();
  // Lanes of two columns show single steps; one lane shows the chain.
  for (int64_t num_lanes : {1, 16, 32}) {
    const MatrixSpec spec = stored.spec(num_lanes);
    const OwnedActivation rows = converted(spec, x, kRowCount);
    const auto expected = bits_of(oracle(spec, rows.view, kRowCount));
    cpu::ThreadTeam team(1, false);
    for (IsaTier tier : available_tiers())
      ASSERT_EQ(bits_of(product(spec, rows.view, kRowCount, tier, team)), expected)
          << isa_tier_name(tier) << " lanes " << num_lanes;
  }
}

/// Lane sums are added in plain f32, where denormals live.
TEST(LinearTest, LaneTreeKeepsDenormals) {
  StoredMatrix stored({WeightFormat::kBf16, 64, 2}, 1);
  for (int64_t n = 0; n < 64; ++n) {
    stored.set(n, 0, 1.5F);
    stored.set(n, 1, -1.0F);
  }
  const std::vector<float> x = {FLT_MIN, FLT_MIN};
  const MatrixSpec spec = stored.spec(2);
  const OwnedActivation rows = converted(spec, x, 1);
  cpu::ThreadTeam team(1, false);
  for (IsaTier tier : available_tiers())
    EXPECT_EQ(product(spec, rows.view, 1, tier, team)[0], FLT_MIN / 2) << isa_tier_name(tier);
}

TEST(LinearTest, StackedSourcesAreRowsOfOneMatrix) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                              WeightFormat::kW4, WeightFormat::kFp8}) {
    const int64_t group_size = is_quantized(format) ? 32 : 0;
    // The second source has zeros and another scale type, the others do not.
    const StoredMatrix first({format, 100, 128, group_size, false, DType::kF32}, 1);
    const StoredMatrix second({format, 7, 128, group_size, true, DType::kF16}, 2);
    const StoredMatrix third({format, 41, 128, group_size, false, DType::kBf16}, 3);
    MatrixSpec spec;
    spec.sources = {first.source(), second.source(), third.source()};
    const auto x = random_floats(5 * 128, 4);
    const OwnedActivation rows = converted(spec, x, 5);
    const auto expected = bits_of(oracle(spec, rows.view, 5));
    cpu::ThreadTeam team(2, false);
    for (IsaTier tier : available_tiers())
      ASSERT_EQ(bits_of(product(spec, rows.view, 5, tier, team)), expected)
          << weight_format_name(format) << " " << isa_tier_name(tier);
  }
}

TEST(LinearTest, ARowsBitsAreItsOwn) {
  constexpr int64_t kOutputs = 150, kCols = 256, kRowCount = 17;
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                              WeightFormat::kW4, WeightFormat::kFp8}) {
    const StoredMatrix stored({format, kOutputs, kCols, is_quantized(format) ? 64 : 0}, 5);
    const MatrixSpec spec = stored.spec(4);
    const auto x = random_floats(kRowCount * kCols, 6);
    cpu::ThreadTeam team(2, false);
    for (IsaTier tier : available_tiers()) {
      const OwnedActivation all = converted(spec, x, kRowCount);
      const auto together = bits_of(product(spec, all.view, kRowCount, tier, team));
      for (int64_t r = 0; r < kRowCount; ++r) {
        const std::vector<float> alone(x.begin() + r * kCols, x.begin() + (r + 1) * kCols);
        const OwnedActivation one = converted(spec, alone, 1);
        const auto y = bits_of(product(spec, one.view, 1, tier, team));
        for (int64_t n = 0; n < kOutputs; ++n)
          ASSERT_EQ(y[static_cast<size_t>(n)],
                    together[static_cast<size_t>(r * (kOutputs + kGap) + n)])
              << weight_format_name(format) << " " << isa_tier_name(tier) << " row " << r;
      }
    }
  }
}

/// From products too small to share out to ones cut along panels, along rows, and along both.
TEST(LinearTest, ThreadsDoNotChangeBits) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                              WeightFormat::kW4, WeightFormat::kFp8})
    for (int64_t num_outputs : {30, 64, 130, 700})
      for (int64_t num_rows : {1, 4, 29}) {
        const StoredMatrix stored({format, num_outputs, 512, is_quantized(format) ? 64 : 0}, 5);
        const MatrixSpec spec = stored.spec(2);
        const auto x = random_floats(static_cast<size_t>(num_rows * 512), 6);
        const OwnedActivation rows = converted(spec, x, num_rows);
        for (IsaTier tier : available_tiers()) {
          cpu::ThreadTeam one(1, false);
          const auto expected = bits_of(product(spec, rows.view, num_rows, tier, one));
          for (int num_threads : {2, 3, 4}) {
            cpu::ThreadTeam team(num_threads, false);
            ASSERT_EQ(bits_of(product(spec, rows.view, num_rows, tier, team)), expected)
                << weight_format_name(format) << " " << isa_tier_name(tier) << " threads "
                << num_threads << " N " << num_outputs << " R " << num_rows;
          }
        }
      }
}

/// A rank owns 8 / tp lanes; adding the ranks' partial products as a tree is the unsliced product.
TEST(LinearTest, ColumnSlicesAddUpToTheWholeProduct) {
  constexpr int64_t kOutputs = 72, kCols = 512, kRowCount = 5, kLanes = 8;
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                              WeightFormat::kW4, WeightFormat::kFp8}) {
    const int64_t group_size = is_quantized(format) ? 32 : 0;
    const StoredMatrix stored({format, kOutputs, kCols, group_size, true}, 5);
    const auto x = random_floats(kRowCount * kCols, 6);
    cpu::ThreadTeam team(1, false);
    for (IsaTier tier : available_tiers()) {
      const MatrixSpec whole = stored.spec(kLanes);
      const OwnedActivation all = converted(whole, x, kRowCount);
      const auto expected = bits_of(product(whole, all.view, kRowCount, tier, team));
      for (int64_t tp : {2, 4, 8}) {
        const int64_t cols = kCols / tp;
        std::vector<std::vector<float>> parts;
        for (int64_t rank = 0; rank < tp; ++rank) {
          MatrixSpec spec;
          spec.sources = {stored.slice(0, kOutputs, rank * cols, cols)};
          spec.num_lanes = kLanes / tp;
          std::vector<float> x_slice;
          for (int64_t r = 0; r < kRowCount; ++r)
            x_slice.insert(x_slice.end(), x.begin() + r * kCols + rank * cols,
                           x.begin() + r * kCols + (rank + 1) * cols);
          const OwnedActivation rows = converted(spec, x_slice, kRowCount);
          parts.push_back(product(spec, rows.view, kRowCount, tier, team));
        }
        for (size_t left = parts.size() / 2; left > 0; left /= 2)
          for (size_t i = 0; i < left; ++i)
            for (size_t j = 0; j < parts[i].size(); ++j)
              parts[i][j] = parts[2 * i][j] == kUntouched ? kUntouched
                                                          : parts[2 * i][j] + parts[2 * i + 1][j];
        ASSERT_EQ(bits_of(parts[0]), expected)
            << weight_format_name(format) << " " << isa_tier_name(tier) << " tp " << tp;
      }
    }
  }
}

TEST(LinearTest, RowSlicesAreRowsOfTheWholeProduct) {
  constexpr int64_t kOutputs = 208, kCols = 128, kRowCount = 3;
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                              WeightFormat::kW4, WeightFormat::kFp8}) {
    const StoredMatrix stored({format, kOutputs, kCols, is_quantized(format) ? 32 : 0, true}, 5);
    const auto x = random_floats(kRowCount * kCols, 6);
    const MatrixSpec whole = stored.spec(1);
    const OwnedActivation rows = converted(whole, x, kRowCount);
    cpu::ThreadTeam team(1, false);
    for (IsaTier tier : available_tiers()) {
      const auto expected = bits_of(product(whole, rows.view, kRowCount, tier, team));
      for (int64_t tp : {2, 4, 8}) {
        const int64_t slice_rows = kOutputs / tp;
        for (int64_t rank = 0; rank < tp; ++rank) {
          MatrixSpec spec;
          spec.sources = {stored.slice(rank * slice_rows, slice_rows, 0, kCols)};
          const auto y = bits_of(product(spec, rows.view, kRowCount, tier, team));
          for (int64_t r = 0; r < kRowCount; ++r)
            for (int64_t n = 0; n < slice_rows; ++n)
              ASSERT_EQ(
                  y[static_cast<size_t>(r * (slice_rows + kGap) + n)],
                  expected[static_cast<size_t>(r * (kOutputs + kGap) + rank * slice_rows + n)])
                  << weight_format_name(format) << " " << isa_tier_name(tier) << " tp " << tp;
        }
      }
    }
  }
}

TEST(LinearTest, ANanStaysInItsRow) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                              WeightFormat::kW4, WeightFormat::kFp8}) {
    const StoredMatrix stored({format, 64, 64, is_quantized(format) ? 32 : 0}, 5);
    auto x = random_floats(3 * 64, 6);
    x[64 + 17] = std::numeric_limits<float>::quiet_NaN();
    const MatrixSpec spec = stored.spec(1);
    const OwnedActivation rows = converted(spec, x, 3);
    cpu::ThreadTeam team(1, false);
    for (IsaTier tier : available_tiers()) {
      const auto y = product(spec, rows.view, 3, tier, team);
      for (int64_t n = 0; n < 64; ++n) {
        EXPECT_TRUE(std::isfinite(y[static_cast<size_t>(n)]));
        EXPECT_TRUE(std::isnan(y[static_cast<size_t>(64 + kGap + n)])) << isa_tier_name(tier);
        EXPECT_TRUE(std::isfinite(y[static_cast<size_t>(2 * (64 + kGap) + n)]));
      }
    }
  }
}

TEST(LinearTest, NoRowsAndNoOutputsAreFine) {
  const StoredMatrix stored({WeightFormat::kW8, 64, 64, 32}, 5);
  cpu::ThreadTeam team(2, false);
  const auto matrix = cpu::pack_matrix(stored.spec(), team);
  ActivationView x;
  x.form = ActivationForm::kS8;
  cpu::linear(*matrix, x, 0, {nullptr, 64}, best_isa_tier(), team);
  MatrixSpec empty;
  empty.sources = {stored.slice(0, 0, 0, 64)};
  const auto none = cpu::pack_matrix(empty, team);
  EXPECT_EQ(none->num_rows(), 0);
  cpu::linear(*none, x, 3, {nullptr, 64}, best_isa_tier(), team);
}

}  // namespace
}  // namespace phalanx::kernels
