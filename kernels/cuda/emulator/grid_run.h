// One launch in progress, shared by the OS threads that run its blocks: its options, its deadline,
// and the first error, which stops the others. Made by run_grid, used by BlockRunner.
#pragma once

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <string>

#include "kernels/cuda/emulator/device.h"

namespace phalanx::kernels::cuda::emulator {

/// The demangled symbol of a kernel's function, or its address where it has none (static
/// functions).
std::string kernel_name(const void* kernel);

/// Thread safe. `grid` outlives it.
class GridRun {
 public:
  GridRun(const Grid& grid, const DeviceOptions& options)
      : grid_(grid), options_(options), start_(std::chrono::steady_clock::now()) {}

  const Grid& grid() const { return grid_; }
  const DeviceOptions& options() const { return options_; }

  bool stopped() const { return stopped_.load(std::memory_order_acquire); }
  bool past_deadline() const {
    return std::chrono::steady_clock::now() - start_ > options_.deadline;
  }

  /// Makes all blocks end. The first error is the launch's.
  void stop(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
    stopped_.store(true, std::memory_order_release);
  }
  /// Throws the first error, if any. Once all blocks have ended.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const Grid& grid_;
  const DeviceOptions options_;
  const std::chrono::steady_clock::time_point start_;
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace phalanx::kernels::cuda::emulator
