// A step's rows on the device: token ids, positions, sequences with their block tables, sampled
// rows, in one copy. Owned by cuda_operators.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "kernels/cuda/device.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cuda {

/// Executor thread only. The device has passed the copy before the last when the next is made.
class StepInputs {
 public:
  StepInputs(Device& device, const StepBounds& bounds);

  /// Enqueues the copy. The result's spans, and the block tables that its sequences name, lie on
  /// the device until the next call, at addresses that depend on the numbers of rows alone, but for
  /// block tables. Sequences of no rows have no table. Errors: InternalError when the step exceeds
  /// the bounds.
  StepRows stage(const StepRows& rows);

  /// Bytes of the device's and of the host's memory, each.
  static int64_t bytes(const StepBounds& bounds);

 private:
  Device& device_;
  StepBounds bounds_;
  std::array<std::shared_ptr<std::byte>, 2> on_host_;  ///< by turns
  size_t turn_ = 0;
  std::shared_ptr<std::byte> on_device_;
};

}  // namespace phalanx::kernels::cuda
