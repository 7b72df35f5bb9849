// Makes the CUDA backend. Called by the launcher and by tests. CMake chooses who answers: the CUDA
// operators, the same on the emulated device (tests), or, in builds without CUDA, no_cuda.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/operators.h"
#include "runtime/base/work_counter.h"

namespace phalanx::kernels {

/// A GPU that this process sees.
struct CudaDeviceInfo {
  int index = 0;
  std::string name;
  std::string uuid;        ///< names it whatever the process sees it as
  std::string pci_bus_id;  ///< "0000:3b:00.0", lower case; empty: not on a bus
  int64_t total_bytes = 0;
};

/// Empty, and why, where there is none: a build without CUDA, no driver, no device. Makes no
/// context.
std::vector<CudaDeviceInfo> find_cuda_devices(std::string* why_none = nullptr);

/// Takes the device for this process, and tells its free memory. Errors: DeviceError.
int64_t free_cuda_memory(int device_index);

struct CudaBackendOptions {
  int device_index = 0;
  int num_host_threads = 1;     ///< for for_each_on_host and packing
  WorkCounter* work = nullptr;  ///< not owned; counts launches and waits, or null
};

/// Device memory that the backend takes for itself: the step's inputs, attention's partial results,
/// the sampler's state.
int64_t cuda_workspace_bytes(const StepBounds& bounds, int64_t vocab_size);

/// Takes the device for this process. Errors: DeviceError naming the device, or that there is none.
std::unique_ptr<Operators> make_cuda_operators(const CudaBackendOptions& options);

/// Kernels that a replay starts, of what these operators recorded; for reports.
int64_t num_cuda_launches(const RecordedOperators& recorded);

}  // namespace phalanx::kernels
