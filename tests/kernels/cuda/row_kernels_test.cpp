// Row kernels on the emulated device against the reference operators, bit by bit, in every order of
// threads.
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu_backend.h"
#include "kernels/cuda/row_launches.h"
#include "kernels/operators.h"
#include "tests/kernels/cuda/thread_orders.h"
#include "tests/kernels/float_rows.h"

namespace phalanx::kernels::cuda {
namespace {

using kernels::test::bits_of;
using kernels::test::random_values;
using test::in_every_thread_order;

constexpr int64_t kRows = 3;
constexpr float kEps = 1e-5F;

struct Shape {
  int64_t num_cols;
  int64_t group_size;
};
// One group, less than a warp; ragged against threads and lanes; several rounds of the block.
constexpr Shape kShapes[] = {{8, 8}, {96, 32}, {120, 24}, {256, 64}, {896, 128}, {1536, 256}};

/// A row form's parts, in host vectors that both sides fill.
struct Converted {
  std::vector<std::byte> codes;
  std::vector<float> scales;
  std::vector<int32_t> sums;

  Converted(ActivationForm form, const Shape& shape)
      : codes(static_cast<size_t>(kRows * shape.num_cols * activation_code_bytes(form))),
        scales(static_cast<size_t>(kRows * shape.num_cols / shape.group_size), -1.0F),
        sums(scales.size(), -1) {}

  ActivationView view(ActivationForm form, const Shape& shape) {
    return {form, shape.num_cols, shape.group_size, codes.data(), scales.data(), sums.data()};
  }

  std::tuple<std::vector<std::byte>, std::vector<uint32_t>, std::vector<int32_t>> all() const {
    return {codes, bits_of(scales), sums};
  }
};

Converted convert_by_reference(ActivationForm form, const Shape& shape,
                               const std::vector<float>& x) {
  const auto reference = make_reference_operators();
  std::vector<std::byte> memory(
      static_cast<size_t>(activation_bytes(form, kRows, shape.num_cols, shape.group_size)) + 64);
  auto* aligned =
      reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  const ActivationView view =
      make_activation_view(form, kRows, shape.num_cols, shape.group_size, aligned);
  reference->convert_rows({x.data(), shape.num_cols}, kRows, view);
  Converted out(form, shape);
  std::memcpy(out.codes.data(), view.codes, out.codes.size());
  if (is_quantized(form)) std::copy_n(view.scales, out.scales.size(), out.scales.begin());
  if (form == ActivationForm::kS8) std::copy_n(view.sums, out.sums.size(), out.sums.begin());
  return out;
}

class RowKernels : public ::testing::TestWithParam<ActivationForm> {};

INSTANTIATE_TEST_SUITE_P(Forms, RowKernels,
                         ::testing::Values(ActivationForm::kF32, ActivationForm::kBf16,
                                           ActivationForm::kS8, ActivationForm::kE4m3),
                         [](const auto& form) {
                           return form.param == ActivationForm::kF32    ? "f32"
                                  : form.param == ActivationForm::kBf16 ? "bf16"
                                  : form.param == ActivationForm::kS8   ? "s8"
                                                                        : "e4m3";
                         });

TEST_P(RowKernels, AddRmsNormGivesTheOraclesBits) {
  const auto reference = make_reference_operators();
  for (const Shape& shape : kShapes) {
    for (const int num_parts : {0, 1, 2, 4, 8}) {
      for (const bool has_bias : {false, true}) {
        const auto count = static_cast<size_t>(kRows * shape.num_cols);
        const std::vector<float> residual = random_values(count, 1);
        const std::vector<float> weight = random_values(static_cast<size_t>(shape.num_cols), 2);
        const std::vector<float> bias = random_values(static_cast<size_t>(shape.num_cols), 3);
        std::vector<std::vector<float>> parts;
        std::vector<const float*> part_pointers;
        for (int i = 0; i < num_parts; ++i)
          parts.push_back(random_values(count, static_cast<uint32_t>(10 + i)));
        for (const auto& part : parts) part_pointers.push_back(part.data());

        std::vector<float> expected_residual = residual;
        std::vector<float> normed(count);
        const Rows to{expected_residual.data(), shape.num_cols};
        const Rows y{normed.data(), shape.num_cols};
        const float* delta_bias = has_bias ? bias.data() : nullptr;
        if (num_parts == 0) {
          reference->rms_norm(to, weight.data(), kEps, kRows, shape.num_cols, y);
        } else {
          reference->add_rms_norm_of_parts(to, {part_pointers, shape.num_cols}, delta_bias,
                                           weight.data(), kEps, kRows, shape.num_cols, y);
        }
        const Converted expected = convert_by_reference(GetParam(), shape, normed);

        const auto got = in_every_thread_order([&] {
          std::vector<float> own_residual = residual;
          Converted out(GetParam(), shape);
          DeviceParts delta{};
          delta.num_parts = num_parts;
          delta.stride = shape.num_cols;
          std::copy(part_pointers.begin(), part_pointers.end(), delta.parts);
          launch_add_rms_norm({own_residual.data(), shape.num_cols}, delta, delta_bias,
                              weight.data(), kEps, kRows, shape.num_cols,
                              device_activation(out.view(GetParam(), shape)), nullptr);
          return std::tuple_cat(out.all(), std::make_tuple(bits_of(own_residual)));
        });
        EXPECT_EQ(got, std::tuple_cat(expected.all(), std::make_tuple(bits_of(expected_residual))))
            << shape.num_cols << " columns, " << num_parts << " parts, bias " << has_bias;
      }
    }
  }
}

TEST_P(RowKernels, SiluMulGivesTheOraclesBits) {
  const auto reference = make_reference_operators();
  for (const Shape& shape : kShapes) {
    const auto count = static_cast<size_t>(kRows * shape.num_cols);
    std::vector<float> gate = random_values(count, 4, 20.0F);
    const std::vector<float> up = random_values(count, 5);
    gate[0] = 1000.0F;  // exp(-x) is 0, and infinity
    gate[1] = -1000.0F;
    gate[2] = 0.0F;
    std::vector<float> y(count);
    reference->silu_mul({gate.data(), shape.num_cols}, {up.data(), shape.num_cols}, kRows,
                        shape.num_cols, {y.data(), shape.num_cols});
    const Converted expected = convert_by_reference(GetParam(), shape, y);
    const auto got = in_every_thread_order([&] {
      Converted out(GetParam(), shape);
      launch_silu_mul({gate.data(), shape.num_cols}, {up.data(), shape.num_cols}, kRows,
                      shape.num_cols, device_activation(out.view(GetParam(), shape)), nullptr);
      return out.all();
    });
    EXPECT_EQ(got, expected.all()) << shape.num_cols << " columns";
  }
}

class RowKernelsByGroups : public ::testing::TestWithParam<ActivationForm> {};

INSTANTIATE_TEST_SUITE_P(Forms, RowKernelsByGroups,
                         ::testing::Values(ActivationForm::kS8, ActivationForm::kE4m3),
                         [](const auto& form) {
                           return form.param == ActivationForm::kS8 ? "s8" : "e4m3";
                         });

TEST_P(RowKernelsByGroups, ConvertTakesWhatIsTinyHugeAndNoNumberAsTheOracleDoes) {
  const Shape shape{96, 32};
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x = random_values(kRows * 96, 6);
  for (size_t i = 0; i < 32; ++i) x[i] = 1e-40F;  // a group of scale 0
  x[32] = NAN;
  x[64] = inf;
  x[65] = -inf;
  x[96] = -3.4e38F;
  const float largest_code = GetParam() == ActivationForm::kS8 ? 127.0F : 448.0F;
  x[96 + 32] = 0x1p-126F * largest_code;  // the smallest scale there is
  for (size_t i = 1; i < 32; ++i) x[96 + 32 + i] = 0.5F * x[96 + 32];
  x[96 + 64] = 448.0F;  // scale 1 of e4m3: codes' ties, subnormals and signed zeros
  for (size_t i = 1; i < 32; ++i)
    x[96 + 64 + i] = (i % 2 == 0 ? -0x1p-11F : 0x1p-11F) * static_cast<float>(i - 1);
  for (size_t i = 0; i < 32; ++i) x[192 + i] = i % 2 == 0 ? -1e-40F : -0.0F;
  const Converted expected = convert_by_reference(GetParam(), shape, x);
  const auto got = in_every_thread_order([&] {
    Converted out(GetParam(), shape);
    launch_convert({x.data(), shape.num_cols}, kRows, shape.num_cols,
                   device_activation(out.view(GetParam(), shape)), nullptr);
    return out.all();
  });
  EXPECT_EQ(std::get<0>(got), expected.codes);
  EXPECT_EQ(std::get<2>(got), expected.sums);
  for (size_t g = 0; g < expected.scales.size(); ++g) {
    float scale = 0;
    std::memcpy(&scale, &std::get<1>(got)[g], sizeof(scale));
    if (std::isnan(expected.scales[g])) {
      EXPECT_TRUE(std::isnan(scale)) << "group " << g;
    } else {
      EXPECT_EQ(scale, expected.scales[g]) << "group " << g;
    }
  }
}

TEST(RowKernelsRope, RotatesAsTheOracleDoes) {
  const auto reference = make_reference_operators();
  for (const auto& [num_heads, head_dim, rotary_dim] :
       {std::tuple<int64_t, int64_t, int64_t>{1, 8, 8}, {5, 64, 64}, {12, 80, 40}}) {
    const int64_t cols = num_heads * head_dim;
    const std::vector<float> x = random_values(static_cast<size_t>(kRows * cols), 7);
    const std::vector<float> cosines = random_values(static_cast<size_t>(10 * rotary_dim / 2), 8);
    const std::vector<float> sines = random_values(static_cast<size_t>(10 * rotary_dim / 2), 9);
    const std::vector<int32_t> positions{3, 0, 9};
    std::vector<float> expected = x;
    reference->rope({expected.data(), cols}, num_heads, head_dim,
                    {cosines.data(), sines.data(), rotary_dim, 10}, positions);
    const auto got = in_every_thread_order([&] {
      std::vector<float> y = x;
      launch_rope({y.data(), cols}, num_heads, head_dim,
                  {cosines.data(), sines.data(), rotary_dim, 10}, positions.data(), kRows, nullptr);
      return bits_of(y);
    });
    EXPECT_EQ(got, bits_of(expected)) << head_dim;
  }
}

TEST(RowKernelsGather, CopiesTheRowsAskedFor) {
  const auto reference = make_reference_operators();
  for (const int64_t cols : {1, 96, 300}) {
    const std::vector<float> x = random_values(static_cast<size_t>(5 * cols), 10);
    const std::vector<int32_t> rows{4, 0, 3};
    std::vector<float> expected(static_cast<size_t>(3 * cols));
    reference->gather_rows({x.data(), cols}, rows, cols, {expected.data(), cols});
    const auto got = in_every_thread_order([&] {
      std::vector<float> y(static_cast<size_t>(3 * cols));
      launch_gather({x.data(), cols}, rows.data(), 3, cols, {y.data(), cols}, nullptr);
      return bits_of(y);
    });
    EXPECT_EQ(got, bits_of(expected)) << cols;
  }
}

}  // namespace
}  // namespace phalanx::kernels::cuda
