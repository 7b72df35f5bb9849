// gated_linear gives the bits of linear, silu_mul and convert_rows one after another: every tier,
// team size, weight format and form of its rows, over ragged row counts.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu_backend.h"
#include "kernels/operators.h"
#include "runtime/base/check.h"
#include "tests/kernels/stored_matrix.h"

namespace phalanx::kernels {
namespace {

using test::OwnedActivation;
using test::StoredMatrix;

constexpr int64_t kNumCols = 128;
constexpr int64_t kWeightGroup = 64;

struct Form {
  ActivationForm form;
  int64_t group_size;
};

const std::vector<Form> kForms = {
    {ActivationForm::kF32, 0},  {ActivationForm::kBf16, 0}, {ActivationForm::kS8, 8},
    {ActivationForm::kS8, 32},  {ActivationForm::kS8, 64},  {ActivationForm::kS8, 128},
    {ActivationForm::kS8, 384}, {ActivationForm::kE4m3, 8}, {ActivationForm::kE4m3, 128}};

std::string name_of(const Form& form, int64_t half, int64_t rows) {
  return "form " + std::to_string(static_cast<int>(form.form)) + " group " +
         std::to_string(form.group_size) + " half " + std::to_string(half) + " rows " +
         std::to_string(rows);
}

/// Everything a view shows.
std::vector<std::byte> bytes_of(const ActivationView& view, int64_t rows) {
  std::vector<std::byte> bytes;
  const auto append = [&](const void* data, int64_t size) {
    const auto* first = static_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), first, first + size);
  };
  append(view.codes, rows * view.num_cols * activation_code_bytes(view.form));
  if (is_quantized(view.form)) append(view.scales, rows * view.num_cols / view.group_size * 4);
  if (view.form == ActivationForm::kS8)
    append(view.sums, rows * view.num_cols / view.group_size * 4);
  return bytes;
}

void expect_same_as_unfused(Operators& operators, WeightFormat format, int64_t half, int64_t rows,
                            const Form& form, bool has_bias) {
  const int64_t weight_group = is_quantized(format) ? kWeightGroup : 0;
  const StoredMatrix stored({format, 2 * half, kNumCols, weight_group, false, DType::kF32}, 7);
  MatrixSpec spec = stored.spec(1);
  const std::vector<float> bias = test::random_floats(static_cast<size_t>(2 * half), 3);
  if (has_bias) spec.bias = bias.data();
  const auto matrix = operators.pack_matrix(spec);

  const std::vector<float> x = test::random_floats(static_cast<size_t>(rows * kNumCols), 11);
  OwnedActivation input(activation_form(format), rows, kNumCols, weight_group);
  operators.convert_rows({x.data(), kNumCols}, rows, input.view);

  std::vector<float> y(static_cast<size_t>(rows * 2 * half));
  const Rows gate{y.data(), 2 * half};
  operators.linear(*matrix, input.view, rows, gate);
  operators.silu_mul(gate, ConstRows(y.data() + half, 2 * half), rows, half, gate);
  OwnedActivation expected(form.form, rows, half, form.group_size);
  operators.convert_rows(gate, rows, expected.view);

  OwnedActivation fused(form.form, rows, half, form.group_size);
  operators.gated_linear(*matrix, input.view, rows, fused.view);
  EXPECT_EQ(bytes_of(fused.view, rows), bytes_of(expected.view, rows))
      << operators.description() << ", " << weight_format_name(format) << ", "
      << name_of(form, half, rows) << (has_bias ? ", bias" : "");
}

TEST(GatedLinear, GivesTheBitsOfItsThreeParts) {
  for (const IsaTier tier : kIsaTiers) {
    if (tier > best_isa_tier()) continue;
    for (const int threads : {1, 3}) {
      CpuBackendOptions options;
      options.isa_tier = tier;
      options.num_threads = threads;
      options.spin = false;
      const auto operators = make_cpu_operators(options);
      for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                                        WeightFormat::kW4, WeightFormat::kFp8}) {
        for (const Form& form : kForms) {
          for (const int64_t half : {64, 128, 384, 768}) {
            if (!fuses_gated_linear(2 * half, form.form, form.group_size)) continue;
            for (const int64_t rows : {1, 3, 4, 5, 7, 13, 31}) {
              expect_same_as_unfused(*operators, format, half, rows, form, rows % 2 == 1);
            }
          }
        }
      }
    }
  }
}

TEST(GatedLinear, TakesWholePanelsAndGroups) {
  EXPECT_TRUE(fuses_gated_linear(2 * 64, ActivationForm::kF32, 0));
  EXPECT_FALSE(fuses_gated_linear(2 * 96, ActivationForm::kF32, 0)) << "a half ends in a panel";
  EXPECT_FALSE(fuses_gated_linear(129, ActivationForm::kBf16, 0)) << "no halves";
  EXPECT_FALSE(fuses_gated_linear(0, ActivationForm::kF32, 0));
  EXPECT_TRUE(fuses_gated_linear(2 * 128, ActivationForm::kS8, 128));
  EXPECT_FALSE(fuses_gated_linear(2 * 192, ActivationForm::kS8, 128)) << "half a group is left";
  EXPECT_FALSE(fuses_gated_linear(2 * 192, ActivationForm::kS8, 96)) << "groups straddle panels";
  EXPECT_TRUE(fuses_gated_linear(2 * 128, ActivationForm::kE4m3, 128));
  EXPECT_FALSE(fuses_gated_linear(2 * 192, ActivationForm::kE4m3, 128)) << "half a group is left";
}

TEST(GatedLinear, RefusesRowsOfAnotherWidth) {
  const auto operators = make_cpu_operators({});
  const StoredMatrix stored({WeightFormat::kF32, 128, kNumCols, 0, false, DType::kF32}, 1);
  const auto matrix = operators->pack_matrix(stored.spec(1));
  OwnedActivation input(ActivationForm::kF32, 1, kNumCols, 0);
  OwnedActivation wide(ActivationForm::kF32, 1, 128, 0);
  EXPECT_THROW(operators->gated_linear(*matrix, input.view, 1, wide.view), InternalError);
}

}  // namespace
}  // namespace phalanx::kernels
