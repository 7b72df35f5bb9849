// Sizes and views of activation rows in the form a linear reads. Called by the executor's memory
// planner and by tests.
#include <cstdint>

#include "kernels/operators.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx::kernels {
namespace {

int64_t align64(int64_t bytes) { return round_up(bytes, 64); }

int64_t num_groups(ActivationForm form, int64_t num_cols, int64_t group_size) {
  if (!is_quantized(form)) return 0;
  PHALANX_CHECK_GT(group_size, 0, "group_size of quantized activations");
  PHALANX_CHECK_EQ(num_cols % group_size, 0, "group_size must divide num_cols");
  return num_cols / group_size;
}

}  // namespace

const char* weight_format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "f32";
    case WeightFormat::kBf16:
      return "bf16";
    case WeightFormat::kW8:
      return "w8";
    case WeightFormat::kW4:
      return "w4";
    case WeightFormat::kFp8:
      return "fp8";
  }
  return "unknown";
}

ActivationForm activation_form(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return ActivationForm::kF32;
    case WeightFormat::kBf16:
      return ActivationForm::kBf16;
    case WeightFormat::kW8:
    case WeightFormat::kW4:
      return ActivationForm::kS8;
    case WeightFormat::kFp8:
      return ActivationForm::kE4m3;
  }
  return ActivationForm::kF32;
}

int64_t activation_code_bytes(ActivationForm form) {
  switch (form) {
    case ActivationForm::kF32:
      return 4;
    case ActivationForm::kBf16:
      return 2;
    case ActivationForm::kS8:
    case ActivationForm::kE4m3:
      return 1;
  }
  return 0;
}

int64_t activation_bytes(ActivationForm form, int64_t num_rows, int64_t num_cols,
                         int64_t group_size) {
  const int64_t groups = num_groups(form, num_cols, group_size);
  const int64_t parts = form == ActivationForm::kS8 ? 2 : 1;  // scales, and sums
  return align64(num_rows * num_cols * activation_code_bytes(form)) +
         parts * align64(num_rows * groups * 4);
}

ActivationView make_activation_view(ActivationForm form, int64_t num_rows, int64_t num_cols,
                                    int64_t group_size, std::byte* memory) {
  PHALANX_CHECK_EQ(reinterpret_cast<uintptr_t>(memory) % 64, 0U,
                   "activation memory must be 64-byte aligned");
  ActivationView view;
  view.form = form;
  view.num_cols = num_cols;
  view.codes = memory;
  const int64_t groups = num_groups(form, num_cols, group_size);
  if (is_quantized(form)) {
    view.group_size = group_size;
    std::byte* scales = memory + align64(num_rows * num_cols);
    view.scales = reinterpret_cast<float*>(scales);
    if (form == ActivationForm::kS8)
      view.sums = reinterpret_cast<int32_t*>(scales + align64(num_rows * groups * 4));
  }
  return view;
}

}  // namespace phalanx::kernels
