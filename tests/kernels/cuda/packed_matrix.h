// A matrix packed for the CUDA kernels in memory that the emulated device reads. Used by the tests
// of matrix products.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/huge_memory.h"
#include "kernels/cuda/device_matrix.h"

namespace phalanx::kernels::cuda::test {

struct PackedOnDevice {
  /// Packs in two ranges of tiles, the second one first.
  explicit PackedOnDevice(const MatrixSpec& spec) {
    const DeviceMatrixLayout layout = make_device_matrix_layout(spec);
    memory = cpu::allocate_zeroed(layout.total_bytes + 256);
    auto* aligned = memory.get() + (256 - reinterpret_cast<uintptr_t>(memory.get()) % 256);
    const int64_t middle = layout.shape.num_tiles / 2;
    pack_device_matrix(spec, layout, middle, layout.shape.num_tiles, aligned);
    pack_device_matrix(spec, layout, 0, middle, aligned);
    matrix = make_device_matrix(layout, aligned);
  }
  std::shared_ptr<std::byte> memory;
  DeviceMatrix matrix;
};

}  // namespace phalanx::kernels::cuda::test
