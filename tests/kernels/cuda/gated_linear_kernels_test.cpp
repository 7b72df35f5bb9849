// gated_linear on the emulated device: the bits of linear, silu_mul and convert_rows one after
// another, for every form of its rows, by every kernel, in every order of threads.
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu_backend.h"
#include "kernels/cuda/linear_launches.h"
#include "kernels/cuda/row_launches.h"
#include "kernels/operators.h"
#include "runtime/base/check.h"
#include "tests/kernels/cuda/packed_matrix.h"
#include "tests/kernels/cuda/thread_orders.h"
#include "tests/kernels/stored_matrix.h"

namespace phalanx::kernels::cuda {
namespace {

using kernels::test::OwnedActivation;
using kernels::test::random_floats;
using kernels::test::StoredMatrix;
using test::in_every_thread_order;
using test::PackedOnDevice;

struct Form {
  ActivationForm form;
  int64_t group_size;
};

using Parts = std::tuple<std::vector<std::byte>, std::vector<uint32_t>, std::vector<int32_t>>;

/// Everything a view shows; all NaNs of scales alike.
Parts parts_of(const ActivationView& view, int64_t num_rows) {
  Parts parts;
  std::get<0>(parts).assign(
      view.codes, view.codes + num_rows * view.num_cols * activation_code_bytes(view.form));
  if (!is_quantized(view.form)) return parts;
  const int64_t groups = num_rows * view.num_cols / view.group_size;
  for (int64_t i = 0; i < groups; ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, view.scales + i, sizeof(bits));
    std::get<1>(parts).push_back(std::isnan(view.scales[i]) ? 0x7fc00000U : bits);
  }
  if (view.sums != nullptr) std::get<2>(parts).assign(view.sums, view.sums + groups);
  return parts;
}

struct World {
  World(WeightFormat of, int64_t num_gates, int64_t rows, const std::vector<float>& x,
        const MatrixSpec& spec)
      : half(num_gates),
        num_rows(rows),
        num_cols(spec.sources.front().num_cols),
        format(of),
        input(activation_form(format), rows, num_cols, spec.sources.front().group_size),
        packed(spec) {
    const auto reference = make_reference_operators();
    reference->convert_rows({x.data(), num_cols}, rows, input.view);
    y.resize(static_cast<size_t>(rows * 2 * half));
    // Orders of their own: that of linear.
    if (format == WeightFormat::kBf16 || format == WeightFormat::kFp8) {
      launch_linear(packed.matrix, input.view, rows, {y.data(), 2 * half}, {}, nullptr);
    } else {
      reference->linear(*reference->pack_matrix(spec), input.view, rows, {y.data(), 2 * half});
    }
    reference->silu_mul({y.data(), 2 * half}, {y.data() + half, 2 * half}, rows, half,
                        {y.data(), 2 * half});
  }

  Parts expected(const Form& form) const {
    const OwnedActivation out(form.form, num_rows, half, form.group_size);
    make_reference_operators()->convert_rows({y.data(), 2 * half}, num_rows, out.view);
    return parts_of(out.view, num_rows);
  }

  /// Two launches with the same counters: each leaves them zero.
  Parts run(const Form& form, const LinearDevice& device) const {
    const GatedScratch bytes =
        gated_linear_scratch(format, 2 * half, form.form, form.group_size, num_rows);
    std::vector<float> products(static_cast<size_t>(bytes.products_bytes) / 4, NAN);
    std::vector<uint32_t> arrivals(static_cast<size_t>(bytes.arrivals_bytes) / 4);
    const OwnedActivation out(form.form, num_rows, half, form.group_size);
    for (int i = 0; i < 2; ++i) {
      launch_gated_linear(packed.matrix, input.view, num_rows, device_activation(out.view),
                          products.data(), arrivals.data(), device, nullptr);
      EXPECT_EQ(arrivals, std::vector<uint32_t>(arrivals.size()));
    }
    return parts_of(out.view, num_rows);
  }

  int64_t half;
  int64_t num_rows;
  int64_t num_cols;
  WeightFormat format;
  OwnedActivation input;
  PackedOnDevice packed;
  std::vector<float> y;
};

constexpr int64_t kHalf = 96;

std::vector<Form> forms() {
  return {{ActivationForm::kF32, 0},   {ActivationForm::kBf16, 0}, {ActivationForm::kS8, 8},
          {ActivationForm::kS8, 24},   {ActivationForm::kS8, 32},  {ActivationForm::kS8, 96},
          {ActivationForm::kE4m3, 24}, {ActivationForm::kE4m3, 32}};
}

TEST(GatedLinearKernels, GiveTheBitsOfTheThreeParts) {
  using enum WeightFormat;
  for (const WeightFormat format : {kF32, kBf16, kW8, kW4, kFp8}) {
    const int64_t group = is_quantized(format) ? 32 : 0;
    const StoredMatrix stored({format, 2 * kHalf, 64, group, false, DType::kBf16}, 7);
    const std::vector<float> bias = random_floats(2 * kHalf, 3);
    for (const int64_t rows : {1, 7, 16, 33, 70}) {
      const World world(format, kHalf, rows, random_floats(static_cast<size_t>(rows * 64), 11),
                        stored.spec(1, rows % 2 == 1 ? bias.data() : nullptr));
      for (const Form& form : forms()) {
        LinearDevice device;
        device.num_sms = rows == 16 ? 1 : 132;  // two pairs of tiles a block, or one
        const Parts expected = world.expected(form);
        std::ostringstream name;
        name << weight_format_name(format) << " rows " << rows << " form "
             << static_cast<int>(form.form) << " group " << form.group_size;
        if (rows == 1 || rows == 33 || (form.group_size != 24 && form.group_size != 96)) {
          EXPECT_EQ(world.run(form, device), expected) << name.str();
        } else {
          EXPECT_EQ(in_every_thread_order([&] { return world.run(form, device); }), expected)
              << name.str();
        }
        if (rows != 70 || format == kF32) continue;
        for (const LinearKernel kernel : {LinearKernel::kLarge, LinearKernel::kLargeWide}) {
          device.kernel = kernel;
          EXPECT_EQ(world.run(form, device), expected) << name.str();
        }
      }
    }
  }
}

TEST(GatedLinearKernels, LanesAndZerosAreTaken) {
  using enum WeightFormat;
  for (const WeightFormat format : {kW8, kW4, kFp8}) {
    const StoredMatrix stored({format, 64, 128, 32, true, DType::kF32}, 7);
    for (const int64_t rows : {3, 17}) {
      const World world(format, 32, rows, random_floats(static_cast<size_t>(rows * 128), 11),
                        stored.spec(4));
      const Form form{activation_form(format), 32};
      EXPECT_EQ(world.run(form, {}), world.expected(form)) << weight_format_name(format);
    }
  }
}

TEST(GatedLinearKernels, WhatIsNoNumberShowsInItsGroup) {
  for (const WeightFormat format : {WeightFormat::kW8, WeightFormat::kFp8}) {
    const StoredMatrix stored({format, 128, 64, 32, false, DType::kF32}, 7);
    std::vector<float> x = random_floats(20 * 64, 12);
    x[64] = NAN;
    x[128] = std::numeric_limits<float>::infinity();
    const World world(format, 64, 20, x, stored.spec());
    const Form form{activation_form(format), 32};
    EXPECT_EQ(world.run(form, {}), world.expected(form)) << weight_format_name(format);
  }
}

TEST(GatedLinearKernels, RefuseHalvesThatEndInATile) {
  EXPECT_TRUE(fuses_gated_linear_on_device(WeightFormat::kW8, 96));
  EXPECT_FALSE(fuses_gated_linear_on_device(WeightFormat::kW8, 80));
  EXPECT_TRUE(fuses_gated_linear_on_device(WeightFormat::kF32, 34));
  EXPECT_FALSE(fuses_gated_linear_on_device(WeightFormat::kF32, 33));
  const StoredMatrix stored({WeightFormat::kW8, 80, 64, 32, false, DType::kF32}, 7);
  const World world(WeightFormat::kW8, 40, 1, random_floats(64, 1), stored.spec());
  EXPECT_THROW(world.run({ActivationForm::kF32, 0}, {}), InternalError);
}

}  // namespace
}  // namespace phalanx::kernels::cuda
