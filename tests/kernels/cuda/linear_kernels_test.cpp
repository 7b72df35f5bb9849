// Matrix products on the emulated device: every kernel, cut and row count against the reference
// operators, by bits (bf16 and fp8, whose sums have orders of their own: within a tolerance, and by
// bits between kernels), in every order of threads.
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu_backend.h"
#include "kernels/cuda/linear_launches.h"
#include "kernels/operators.h"
#include "runtime/base/check.h"
#include "tests/kernels/cuda/packed_matrix.h"
#include "tests/kernels/cuda/thread_orders.h"
#include "tests/kernels/float_rows.h"
#include "tests/kernels/stored_matrix.h"

namespace phalanx::kernels::cuda {
namespace {

using kernels::test::OwnedActivation;
using kernels::test::random_floats;
using kernels::test::StoredMatrix;
using test::in_every_thread_order;
using test::PackedOnDevice;

struct Case {
  WeightFormat format;
  int64_t num_rows;  ///< N
  int64_t num_cols;
  int64_t group_size = 0;
  int64_t num_lanes = 1;
  bool has_zeros = false;
  bool has_bias = false;
  DType scale_dtype = DType::kF32;
};

std::string name_of(const Case& c) {
  std::ostringstream text;
  text << weight_format_name(c.format) << " " << c.num_rows << " x " << c.num_cols << " group "
       << c.group_size << " lanes " << c.num_lanes << (c.has_zeros ? " zeros" : "")
       << (c.has_bias ? " bias" : "") << " scales " << dtype_name(c.scale_dtype);
  return text.str();
}

/// Bits, all NaNs alike.
std::vector<uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<uint32_t> bits = kernels::test::bits_of(values);
  for (size_t i = 0; i < values.size(); ++i)
    if (std::isnan(values[i])) bits[i] = 0x7fc00000U;
  return bits;
}

constexpr int64_t kGap = 3;  // between rows of y; must stay as it is
constexpr float kUntouched = 12345.0F;

/// A matrix, its rows, and what the oracle makes of them.
struct World {
  World(const Case& c, int64_t rows, std::vector<float> x, const MatrixSpec& spec)
      : num_rows(rows),
        stride(c.num_rows + kGap),
        input(activation_form(c.format), rows, c.num_cols, c.group_size),
        packed(spec),
        expected(static_cast<size_t>(rows * stride), kUntouched) {
    const auto reference = make_reference_operators();
    reference->convert_rows({x.data(), c.num_cols}, rows, input.view);
    reference->linear(*reference->pack_matrix(spec), input.view, rows, {expected.data(), stride});
  }

  std::vector<float> run(const LinearDevice& device, int64_t first_row = 0,
                         int64_t count = -1) const {
    if (count < 0) count = num_rows;
    std::vector<float> y(static_cast<size_t>(count * stride), kUntouched);
    launch_linear(packed.matrix, rows_from(first_row), count, {y.data(), stride}, device, nullptr);
    return y;
  }

  ActivationView rows_from(int64_t row) const {
    ActivationView view = input.view;
    view.codes += row * view.num_cols * activation_code_bytes(view.form);
    if (!is_quantized(view.form)) return view;
    view.scales += row * view.num_cols / view.group_size;
    if (view.sums != nullptr) view.sums += row * view.num_cols / view.group_size;
    return view;
  }

  int64_t num_rows;
  int64_t stride;
  OwnedActivation input;
  PackedOnDevice packed;
  std::vector<float> expected;
};

World make_world(const Case& c, int64_t rows, uint32_t seed = 1) {
  const StoredMatrix stored(
      {c.format, c.num_rows, c.num_cols, c.group_size, c.has_zeros, c.scale_dtype}, seed);
  const std::vector<float> bias = random_floats(static_cast<size_t>(c.num_rows), seed + 1);
  return World(c, rows, random_floats(static_cast<size_t>(rows * c.num_cols), seed + 2),
               stored.spec(c.num_lanes, c.has_bias ? bias.data() : nullptr));
}

/// Of sums in f32 whose order is not the oracle's.
void expect_near(const std::vector<float>& got, const std::vector<float>& expected,
                 const std::string& name) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isfinite(expected[i])) {
      ASSERT_NEAR(got[i], expected[i], 1e-4F * (1.0F + std::abs(expected[i])))
          << name << " at " << i;
    } else {
      ASSERT_EQ(bits_of({got[i]}), bits_of({expected[i]})) << name << " at " << i;
    }
  }
}

LinearDevice with(LinearKernel kernel, int num_sms = 132) {
  LinearDevice device;
  device.kernel = kernel;
  device.num_sms = num_sms;
  return device;
}

void expect_oracle(const Case& c, const World& world, const std::vector<float>& got,
                   const std::string& name) {
  if (c.format == WeightFormat::kBf16 || c.format == WeightFormat::kFp8) {
    expect_near(got, world.expected, name);
  } else {
    EXPECT_EQ(bits_of(got), bits_of(world.expected)) << name;
  }
}

const std::vector<Case>& cases() {
  using enum WeightFormat;
  static const std::vector<Case> all = {
      {kF32, 40, 72, 0, 2, false, true},
      {kF32, 17, 33, 0, 1, false, false},
      {kBf16, 40, 288, 0, 2, false, true},  // spans 128 and 16
      {kBf16, 17, 50, 0, 2, false, false},  // odd lanes: padded steps
      {kBf16, 33, 1024, 0, 8, false, false},
      {kBf16, 16, 640, 0, 1, false, false},
      {kW8, 40, 384, 128, 1, false, true},
      {kW8, 33, 512, 64, 4, true, false, DType::kF16},
      {kW8, 17, 256, 32, 8, false, false, DType::kBf16},
      {kW8, 20, 72, 24, 1, true, true},  // padded groups
      {kW4, 40, 512, 128, 2, false, true, DType::kF16},
      {kW4, 33, 512, 64, 8, true, false},
      {kW4, 17, 96, 32, 1, true, true, DType::kBf16},  // an odd number of steps
      {kW4, 20, 128, 8, 2, false, false},
      {kW4, 16, 256, 32, 8, false, false},  // units across lanes
      {kFp8, 40, 384, 128, 1, false, true},
      {kFp8, 33, 512, 64, 4, false, false},
      {kFp8, 17, 256, 32, 8, false, true},
      {kFp8, 20, 72, 24, 1, false, false}};  // padded groups
  return all;
}

TEST(LinearKernels, FewRowsGiveTheOraclesBits) {
  for (const Case& c : cases()) {
    for (const int64_t rows : {1, 2, 3, 7, 8, 9, 16}) {
      const World world = make_world(c, rows);
      // Few SMs: several tiles a block.
      const LinearDevice device = with(LinearKernel::kSmall, rows % 2 == 0 ? 1 : 132);
      const std::string name = name_of(c) + ", " + std::to_string(rows) + " rows";
      const auto got = in_every_thread_order([&] { return world.run(device); });
      expect_oracle(c, world, got, name);
    }
  }
}

TEST(LinearKernels, ManyRowsGiveTheOraclesBits) {
  for (const Case& c : cases()) {
    const World world = make_world(c, 70);
    const std::string name = name_of(c);
    const auto narrow =
        in_every_thread_order([&] { return world.run(with(LinearKernel::kLargeShort)); });
    expect_oracle(c, world, narrow, name);
    for (const LinearKernel kernel : {LinearKernel::kLarge, LinearKernel::kLargeWide}) {
      if (kernel == LinearKernel::kLargeWide && c.num_lanes > 2) continue;
      EXPECT_EQ(bits_of(world.run(with(kernel))), bits_of(narrow)) << name;
    }
  }
}

TEST(LinearKernels, ARowsBitsDoNotDependOnItsCompanyNorOnTheKernel) {
  for (const Case& c : cases()) {
    const World world = make_world(c, 33);
    const auto all = world.run({});
    EXPECT_EQ(bits_of(world.run(with(LinearKernel::kLargeShort), 0, 17)),
              bits_of({all.begin(), all.begin() + 17 * world.stride}))
        << name_of(c);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {5, 7}, {17, 16}}) {
      const auto begin = all.begin() + first * world.stride;
      EXPECT_EQ(bits_of(world.run(with(LinearKernel::kSmall), first, count)),
                bits_of({begin, begin + count * world.stride}))
          << name_of(c) << " rows from " << first;
    }
  }
}

TEST(LinearKernels, SegmentsAndCutsDoNotChangeBits) {
  using enum WeightFormat;
  for (const Case& c :
       {Case{kBf16, 70, 4096, 0, 4}, Case{kW8, 70, 4096, 128, 2, true}, Case{kW4, 70, 4096, 128, 1},
        Case{kW4, 40, 4096, 32, 2}, Case{kFp8, 70, 4096, 128, 2}}) {
    for (const int64_t rows : {3, 16}) {
      const World world = make_world(c, rows);
      const auto whole = world.run(with(LinearKernel::kSmall));
      expect_oracle(c, world, whole, name_of(c));
      for (const int64_t kib :
           rows == 16 ? std::vector<int64_t>{120, 90} : std::vector<int64_t>{60, 40}) {
        LinearDevice device = with(LinearKernel::kSmall, 2);
        device.shared_bytes_of_block = kib * 1024;
        EXPECT_EQ(bits_of(world.run(device)), bits_of(whole)) << name_of(c) << " KiB " << kib;
      }
    }
  }
}

TEST(LinearKernels, StackedSlicesAreOneMatrix) {
  using enum WeightFormat;
  for (const WeightFormat format : {kF32, kBf16, kW8, kW4, kFp8}) {
    const int64_t group = is_quantized(format) ? 32 : 0;
    const StoredMatrix a({format, 30, 256, group, false, DType::kF16}, 3);
    const StoredMatrix b({format, 50, 256, group, true, DType::kF16}, 4);
    MatrixSpec spec;
    spec.sources = {a.slice(3, 11, 64, 128), b.slice(0, 7, 128, 128), a.slice(1, 20, 0, 128)};
    spec.num_lanes = 2;
    const Case c{format, 38, 128, group, 2};
    for (const int64_t rows : {2, 20}) {
      const World world(c, rows, random_floats(static_cast<size_t>(rows * 128), 9), spec);
      expect_oracle(c, world, world.run({}), name_of(c));
    }
  }
}

TEST(LinearKernels, SourcesWithDifferentScaleTypesBecomeF32) {
  const StoredMatrix a({WeightFormat::kW8, 16, 64, 32, false, DType::kF16}, 3);
  const StoredMatrix b({WeightFormat::kW8, 16, 64, 32, false, DType::kBf16}, 4);
  MatrixSpec spec;
  spec.sources = {a.source(), b.source()};
  EXPECT_EQ(make_device_matrix_layout(spec).scale_dtype, DType::kF32);
  const Case c{WeightFormat::kW8, 32, 64, 32};
  const World world(c, 3, random_floats(3 * 64, 9), spec);
  expect_oracle(c, world, world.run({}), name_of(c));
}

TEST(LinearKernels, WhatIsNoNumberStaysInItsRow) {
  using enum WeightFormat;
  for (const Case& c :
       {Case{kW8, 20, 128, 32, 2, true}, Case{kW4, 20, 128, 32, 1}, Case{kFp8, 20, 128, 32, 2}}) {
    const StoredMatrix stored({c.format, c.num_rows, c.num_cols, c.group_size, c.has_zeros}, 5);
    std::vector<float> x = random_floats(static_cast<size_t>(20 * c.num_cols), 6);
    x[5] = NAN;
    x[static_cast<size_t>(2 * c.num_cols + 40)] = std::numeric_limits<float>::infinity();
    for (int64_t k = 0; k < 64; ++k) x[static_cast<size_t>(3 * c.num_cols + k)] = 1e-41F;
    const World world(c, 20, x, stored.spec(c.num_lanes));
    const auto all = world.run(with(LinearKernel::kLarge));
    expect_oracle(c, world, all, name_of(c));
    const auto few = world.run(with(LinearKernel::kSmall), 0, 16);
    EXPECT_EQ(bits_of(few), bits_of({all.begin(), all.begin() + 16 * world.stride})) << name_of(c);
  }
}

// Sums of whole numbers below 2^24 are exact in any order. All codes occur that are such, with the
// largest and the smallest of both signs.
TEST(LinearKernels, Fp8ProductsOfWholeNumbersHaveTheOraclesBits) {
  constexpr int64_t kCols = 192;
  constexpr int64_t kGroup = 64;
  constexpr int64_t kOutputs = 37;
  std::vector<uint8_t> whole;
  for (int code = 0; code < 0x7f; ++code) {
    const float value = e4m3_to_f32(static_cast<uint8_t>(code));
    if (value != std::floor(value)) continue;
    whole.push_back(static_cast<uint8_t>(code));
    whole.push_back(static_cast<uint8_t>(code | 0x80));
  }
  std::vector<uint8_t> codes(kOutputs * kCols);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = whole[i * 31 % whole.size()];
  const std::vector<float> scales = random_floats(3 * kOutputs, 4);
  MatrixSource source;
  source.format = WeightFormat::kFp8;
  source.num_rows = kOutputs;
  source.num_cols = kCols;
  source.codes = reinterpret_cast<const std::byte*>(codes.data());
  source.row_stride_bytes = kCols;
  source.scales = reinterpret_cast<const std::byte*>(scales.data());
  source.scale_row_stride = 3;
  source.group_size = kGroup;
  source.scale_rows = 1;
  source.scale_cols = kGroup;
  MatrixSpec spec;
  spec.sources = {source};
  std::vector<float> x(20 * kCols);
  for (size_t i = 0; i < x.size(); ++i)  // a scale of 1, but for signs
    x[i] = i % kGroup == 5 ? 448.0F : e4m3_to_f32(whole[i * 17 % whole.size()]);
  const Case c{WeightFormat::kFp8, kOutputs, kCols, kGroup};
  const World world(c, 20, x, spec);
  EXPECT_EQ(bits_of(world.run(with(LinearKernel::kLarge))), bits_of(world.expected));
  EXPECT_EQ(bits_of(world.run(with(LinearKernel::kSmall), 0, 9)),
            bits_of({world.expected.begin(), world.expected.begin() + 9 * world.stride}));
}

// All layouts of scales, and slices that begin inside a block's rows.
TEST(LinearKernels, Fp8ScalesComeFromTheirBlocks) {
  struct Blocks {
    int64_t rows;
    int64_t cols;
  };
  for (const Blocks& blocks : {Blocks{70, 256}, Blocks{1, 256}, Blocks{32, 64}, Blocks{7, 32}}) {
    const StoredMatrix stored(
        {WeightFormat::kFp8, 70, 256, 32, false, DType::kF32, blocks.rows, blocks.cols}, 5);
    MatrixSpec spec;
    spec.sources = {stored.slice(30, 21, 96, 128), stored.slice(3, 17, 96, 128)};
    const Case c{WeightFormat::kFp8, 38, 128, 32};
    const World world(c, 3, random_floats(3 * 128, 9), spec);
    expect_oracle(c, world, world.run({}), std::to_string(blocks.rows) + " rows");
  }
}

TEST(LinearKernels, RefuseWhatTheyCannotTake) {
  EXPECT_THROW(device_matrix_bytes({WeightFormat::kF32, 16, 48, 3}), InternalError);
  EXPECT_THROW(device_matrix_bytes({WeightFormat::kF32, 16, 64, 16}), InternalError);
  EXPECT_THROW(device_matrix_bytes({WeightFormat::kW8, 16, 64, 1, 20}), InternalError);
  EXPECT_THROW(device_matrix_bytes({WeightFormat::kW8, 16, 64, 4, 32}), InternalError);
  const StoredMatrix fp8({WeightFormat::kFp8, 16, 64, 32}, 1);
  MatrixSpec straddling = fp8.spec();
  straddling.sources[0].scale_cols = 48;
  EXPECT_THROW(make_device_matrix_layout(straddling), InternalError);
  EXPECT_EQ(device_matrix_bytes({WeightFormat::kFp8, 17, 256, 1, 128, DType::kF32, false, true}),
            2 * 16 * 256 + 256 + 256);  // codes, 2 * 16 * 2 scales, bias
  const Case c{WeightFormat::kW8, 16, 64, 32};
  const World world = make_world(c, 17);
  EXPECT_THROW(world.run(with(LinearKernel::kSmall)), InternalError);
  EXPECT_TRUE(world.run({}, 0, 0).empty());
}

TEST(LinearKernels, EmbeddingGivesTheOraclesRows) {
  const auto reference = make_reference_operators();
  const std::vector<int32_t> ids{0, 39, 17, 8, 17};
  const auto num_rows = static_cast<int64_t>(ids.size());
  for (const Case& c : cases()) {
    if (c.num_rows < 40) continue;
    for (const bool has_zeros : {false, true}) {
      const StoredMatrix stored(
          {c.format, c.num_rows, c.num_cols, c.group_size, has_zeros, c.scale_dtype}, 8);
      const MatrixSource source = stored.source();
      std::vector<float> expected(static_cast<size_t>(num_rows * c.num_cols));
      reference->embedding(source, ids, {expected.data(), c.num_cols});
      const PackedOnDevice packed(stored.spec(c.num_lanes));
      std::vector<float> y(expected.size());
      launch_embedding(packed.matrix, ids.data(), num_rows, {y.data(), c.num_cols}, nullptr);
      EXPECT_EQ(bits_of(y), bits_of(expected)) << name_of(c);
      MatrixSource table = source;
      std::vector<float> aligned;
      if (c.format == WeightFormat::kF32) {  // stored at odd places
        aligned.resize(static_cast<size_t>(c.num_rows * c.num_cols));
        for (int64_t n = 0; n < c.num_rows; ++n)
          std::memcpy(aligned.data() + n * c.num_cols, source.codes + n * source.row_stride_bytes,
                      static_cast<size_t>(c.num_cols) * 4);
        table.codes = reinterpret_cast<const std::byte*>(aligned.data());
        table.row_stride_bytes = c.num_cols * 4;
      }
      std::vector<float> natural(expected.size());
      launch_embedding(table, ids.data(), num_rows, {natural.data(), c.num_cols}, nullptr);
      EXPECT_EQ(bits_of(natural), bits_of(expected)) << name_of(c);
    }
  }
}

}  // namespace
}  // namespace phalanx::kernels::cuda
