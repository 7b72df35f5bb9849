// Rows in device memory as kernels take them: the device side of operators.h's Rows, PartRows and
// ActivationView. Plain values, copied to the device with a launch.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace phalanx::kernels::cuda {

/// Row r starts at data + r * stride.
struct DeviceRows {
  float* data;
  int64_t stride;
};
struct ConstDeviceRows {
  const float* data;
  int64_t stride;
};

/// Parts to be summed as a binary tree, ((p0 + p1) + (p2 + p3)) + ...: one of each rank.
inline constexpr int kMostParts = 8;
struct DeviceParts {
  const float* parts[kMostParts];
  int num_parts;  ///< a power of two
  int64_t stride;
};

/// What a linear reads: f32 (rows only), bf16 codes, s8 codes with scales and sums a group, or e4m3
/// codes with scales.
enum class DeviceForm : uint8_t { kF32, kBf16, kS8, kE4m3 };

/// Whether rows are converted by groups, each with a scale.
PHALANX_HOST_DEVICE constexpr bool has_groups(DeviceForm form) {
  return form == DeviceForm::kS8 || form == DeviceForm::kE4m3;
}

struct DeviceActivation {
  DeviceForm form;
  DeviceRows rows;     ///< kF32
  void* codes;         ///< [R, K] bf16, s8 or e4m3, row-contiguous
  float* scales;       ///< [R, K/G] of kS8 and kE4m3
  int32_t* sums;       ///< [R, K/G] of kS8
  int64_t group_size;  ///< G of kS8 and kE4m3
};

}  // namespace phalanx::kernels::cuda
