// Launch shapes of the kernels over rows: a block a row.
#include "kernels/cuda/row_kernels.h"
#include "kernels/cuda/row_launches.h"

namespace phalanx::kernels::cuda {
namespace {

LaunchShape row_shape(int64_t num_rows, int64_t num_cols) {
  return {dim3(static_cast<uint32_t>(num_rows)), dim3(kRowThreads), row_shared_bytes(num_cols)};
}

}  // namespace

DeviceActivation device_activation(const ActivationView& view) {
  DeviceActivation out{};
  out.codes = view.codes;
  switch (view.form) {
    case ActivationForm::kF32:
      return device_activation(Rows{reinterpret_cast<float*>(view.codes), view.num_cols});
    case ActivationForm::kBf16:
      out.form = DeviceForm::kBf16;
      break;
    case ActivationForm::kS8:
      out.form = DeviceForm::kS8;
      out.scales = view.scales;
      out.sums = view.sums;
      out.group_size = view.group_size;
      break;
    case ActivationForm::kE4m3:
      out.form = DeviceForm::kE4m3;
      out.scales = view.scales;
      out.group_size = view.group_size;
      break;
  }
  return out;
}

DeviceActivation device_activation(Rows rows) {
  DeviceActivation out{};
  out.form = DeviceForm::kF32;
  out.rows = {rows.data, rows.stride};
  return out;
}

void launch_add_rms_norm(Rows residual, const DeviceParts& delta, const float* delta_bias,
                         const float* weight, float eps, int64_t num_rows, int64_t num_cols,
                         const DeviceActivation& out, Stream stream) {
  if (num_rows == 0) return;
  const AddNorm arguments{
      {residual.data, residual.stride}, delta, delta_bias, weight, eps, num_cols, out};
  launch(add_rms_norm<AddNorm>, row_shape(num_rows, num_cols), stream, arguments);
}

void launch_silu_mul(ConstRows gate, ConstRows up, int64_t num_rows, int64_t num_cols,
                     const DeviceActivation& out, Stream stream) {
  if (num_rows == 0) return;
  const SiluMul arguments{{gate.data, gate.stride}, {up.data, up.stride}, num_cols, out};
  launch(silu_mul<SiluMul>, row_shape(num_rows, num_cols), stream, arguments);
}

void launch_convert(ConstRows x, int64_t num_rows, int64_t num_cols, const DeviceActivation& out,
                    Stream stream) {
  if (num_rows == 0) return;
  launch(convert<Convert>, row_shape(num_rows, num_cols), stream,
         Convert{{x.data, x.stride}, num_cols, out});
}

void launch_rope(Rows x, int64_t num_heads, int64_t head_dim, const RopeTable& table,
                 const int32_t* positions, int64_t num_rows, Stream stream) {
  if (num_rows == 0) return;
  const Rope arguments{{x.data, x.stride}, num_heads,        head_dim, table.cosines,
                       table.sines,        table.rotary_dim, positions};
  launch(rope<Rope>, {dim3(static_cast<uint32_t>(num_rows)), dim3(kRowThreads)}, stream, arguments);
}

void launch_gather(ConstRows x, const int32_t* rows, int64_t num_rows, int64_t num_cols, Rows y,
                   Stream stream) {
  if (num_rows == 0) return;
  const Gather arguments{{x.data, x.stride}, rows, num_cols, {y.data, y.stride}};
  launch(gather<Gather>, {dim3(static_cast<uint32_t>(num_rows)), dim3(kRowThreads)}, stream,
         arguments);
}

}  // namespace phalanx::kernels::cuda
