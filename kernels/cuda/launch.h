// Starting kernels: one call for CUDA and for the emulated device. Called by the host side of the
// CUDA operators and by kernel tests. Compiled by nvcc in CUDA builds.
#pragma once

#include <cstddef>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "runtime/base/check.h"

#if defined(__CUDACC__)
#include <cstdlib>
#include <memory>

#include <cuda_runtime.h>
#include <cxxabi.h>
#else
#include "kernels/cuda/emulator/device.h"
#include "kernels/cuda/emulator/stream.h"
#endif

namespace phalanx::kernels::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  ///< dynamic shared memory of each block
};

#if defined(__CUDACC__)

/// Null: launches have ended when launch() returns. Else they run in the stream's order, later.
using Stream = cudaStream_t;

namespace launch_internal {

inline std::string kernel_name(const void* kernel) {
#if CUDART_VERSION >= 12030
  const char* symbol = nullptr;
  if (cudaFuncGetName(&symbol, kernel) == cudaSuccess && symbol != nullptr) {
    int status = 0;
    const std::unique_ptr<char, decltype(&std::free)> name(
        abi::__cxa_demangle(symbol, nullptr, nullptr, &status), &std::free);
    return status == 0 ? name.get() : symbol;
  }
#endif
  (void)kernel;
  return "(unnamed)";
}

[[noreturn]] inline void fail(const void* kernel, const LaunchShape& shape, cudaError_t error) {
  const auto shape_text = [](const dim3& d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  };
  throw DeviceError("kernel " + kernel_name(kernel) +
                    " cannot be launched: " + cudaGetErrorString(error) + " (grid " +
                    shape_text(shape.grid) + ", block " + shape_text(shape.block) + ", " +
                    std::to_string(shape.shared_bytes) + " bytes of shared memory)");
}

/// What a kernel may use of shared memory without being told so beforehand.
inline constexpr size_t kSharedBytesByDefault = 48 * 1024;

template <typename... Parameters>
void start(void (*kernel)(Parameters...), const LaunchShape& shape, Stream stream, bool coresident,
           std::tuple<Parameters...> arguments) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  // Of the thread, so that ranks that are threads do not wait for each other.
  const cudaStream_t queue = stream == nullptr ? cudaStreamPerThread : stream;
  const auto require = [&](cudaError_t error) {
    if (error != cudaSuccess) fail(function, shape, error);
  };
  if (shape.shared_bytes > kSharedBytesByDefault) {
    require(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes)));
  }
  std::apply(
      [&](auto&... argument) {
        void* pointers[] = {static_cast<void*>(&argument)..., nullptr};
        require(coresident ? cudaLaunchCooperativeKernel(function, shape.grid, shape.block,
                                                         pointers, shape.shared_bytes, queue)
                           : cudaLaunchKernel(function, shape.grid, shape.block, pointers,
                                              shape.shared_bytes, queue));
      },
      arguments);
  require(cudaGetLastError());
  if (stream == nullptr) require(cudaStreamSynchronize(queue));
}

}  // namespace launch_internal

#else

using Stream = EmulatedStream*;  ///< as above

namespace launch_internal {

template <typename... Parameters>
void run_now(void (*kernel)(Parameters...), const LaunchShape& shape, bool coresident,
             const std::tuple<Parameters...>& arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    const std::tuple<Parameters...>& arguments;
  };
  const Call call{kernel, arguments};
  emulator::Grid grid;
  grid.kernel = reinterpret_cast<const void*>(kernel);
  grid.body = [](const void* bound) {
    const auto& bound_call = *static_cast<const Call*>(bound);
    std::apply(bound_call.kernel, bound_call.arguments);  // by value: each thread has its own copy
  };
  grid.arguments = &call;
  grid.grid = shape.grid;
  grid.block = shape.block;
  grid.shared_bytes = shape.shared_bytes;
  grid.coresident = coresident;
  emulator::run_grid(grid);
}

template <typename... Parameters>
void start(void (*kernel)(Parameters...), const LaunchShape& shape, Stream stream, bool coresident,
           std::tuple<Parameters...> arguments) {
  if (stream == nullptr) {
    run_now(kernel, shape, coresident, arguments);
  } else {
    stream->add([=] { run_now(kernel, shape, coresident, arguments); });
  }
}

}  // namespace launch_internal

#endif

/// Starts `kernel` on the stream with the arguments, converted to its parameters. Blocks must not
/// wait for one another. Throws DeviceError that names the kernel when it cannot be launched;
/// emulated, what it did wrong is thrown where it runs (emulator::KernelFault): here, without a
/// stream.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream stream,
            Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "copied to the device as bytes");
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "one argument for each parameter");
  launch_internal::start<Parameters...>(
      kernel, shape, stream, false,
      std::tuple<Parameters...>(std::forward<Arguments>(arguments)...));
}

/// The same for grids whose blocks spin on each other's flags: all blocks run at once, or the
/// launch fails (CUDA: a cooperative launch; emulated: an OS thread each).
template <typename... Parameters, typename... Arguments>
void launch_coresident(void (*kernel)(Parameters...), const LaunchShape& shape, Stream stream,
                       Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "copied to the device as bytes");
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "one argument for each parameter");
  launch_internal::start<Parameters...>(
      kernel, shape, stream, true,
      std::tuple<Parameters...>(std::forward<Arguments>(arguments)...));
}

}  // namespace phalanx::kernels::cuda
