// The emulated device: options, what it finds wrong with a kernel, and running a grid on it.
// Called by kernels/cuda/launch.h in builds without CUDA, and by tests that choose a thread order.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/cuda/emulator/vector_types.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda::emulator {

/// In which order the threads of a block, and the blocks of an ordinary grid, take their turns. A
/// correct kernel gives the same bits in every order.
enum class ThreadOrder {
  kAscending,
  kDescending,
  kShuffled,  ///< by DeviceOptions::seed, another order for each block
};

struct DeviceOptions {
  ThreadOrder order = ThreadOrder::kAscending;
  uint64_t seed = 1;
  /// OS threads that share the blocks of an ordinary grid, the caller's included; at least 1.
  int num_os_threads = 2;
  /// After this long, a grid whose threads only spin is given up. Runaway loops that call nothing
  /// of the device are not seen.
  std::chrono::milliseconds deadline{60'000};
  /// What a block may ask for (227 KiB on sm_90).
  size_t max_shared_bytes = size_t{227} * 1024;
  /// What launch_coresident refuses beyond: an OS thread each.
  size_t max_coresident_blocks = 256;
};

/// Of launches that begin from now on, in the whole process. Any thread.
void set_device_options(const DeviceOptions& options);
DeviceOptions device_options();

/// Sets options for a scope.
class ScopedDeviceOptions {
 public:
  explicit ScopedDeviceOptions(const DeviceOptions& options) : before_(device_options()) {
    set_device_options(options);
  }
  ~ScopedDeviceOptions() { set_device_options(before_); }
  ScopedDeviceOptions(const ScopedDeviceOptions&) = delete;
  ScopedDeviceOptions& operator=(const ScopedDeviceOptions&) = delete;

 private:
  DeviceOptions before_;
};

enum class FaultKind {
  kBadLaunch,           ///< a grid, block or shared-memory size that no device takes
  kDeadlock,            ///< all threads of a block wait and nothing can move
  kDivergentBarrier,    ///< threads of a block meet at different __syncthreads
  kLaneOutsideMask,     ///< a lane calls a warp function with a mask that does not name it
  kExitedLaneInMask,    ///< a warp function waits for the value of a lane that has returned
  kMixedWarpFunctions,  ///< lanes of one mask meet in different warp functions
  kBadArgument,         ///< a value that the function does not take
  kSharedOverrun,       ///< shared memory used that the launch did not ask for
  kMisaligned,          ///< an address that the instruction does not take
  kDeadline,            ///< DeviceOptions::deadline has passed
  kTrap,                ///< __trap()
};

/// A mistake of a kernel. The text names kernel, block, thread, and what they do or wait for.
class KernelFault : public DeviceError {
 public:
  KernelFault(FaultKind kind, const std::string& text) : DeviceError(text), kind_(kind) {}
  FaultKind kind() const { return kind_; }

 private:
  FaultKind kind_;
};

/// A kernel with its arguments bound.
struct Grid {
  const void* kernel = nullptr;         ///< whose symbol names it in errors
  void (*body)(const void*) = nullptr;  ///< what each thread runs, on `arguments`
  const void* arguments = nullptr;
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  bool coresident = false;  ///< all blocks at once, an OS thread each; else a few at a time
};

/// Runs the grid to its end. Throws KernelFault, or what a kernel thread threw: the first one, once
/// all blocks have ended and everything is unwound. Any OS thread; several grids may run at once.
void run_grid(const Grid& grid);

}  // namespace phalanx::kernels::cuda::emulator
