// Stands in for the CUDA backend in builds without it. Chosen by CMake.
#include "kernels/cuda_backend.h"
#include "kernels/cuda_limits.h"
#include "runtime/base/check.h"

namespace phalanx::kernels {
namespace {

constexpr char kWithout[] = "this build has no CUDA (it was configured without a CUDA toolkit)";

}  // namespace

std::vector<CudaDeviceInfo> find_cuda_devices(std::string* why_none) {
  if (why_none != nullptr) *why_none = kWithout;
  return {};
}

int64_t free_cuda_memory(int) { throw DeviceError(kWithout); }

int64_t cuda_workspace_bytes(const StepBounds&, int64_t) { return 0; }

std::unique_ptr<Operators> make_cuda_operators(const CudaBackendOptions&) {
  throw DeviceError(kWithout);
}

int64_t num_cuda_launches(const RecordedOperators&) { throw DeviceError(kWithout); }

std::unique_ptr<CudaLimits> make_cuda_limits(int, const std::string&) {
  throw DeviceError(kWithout);
}

}  // namespace phalanx::kernels
