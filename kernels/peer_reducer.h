// Sums over the ranks of a tensor-parallel group that meet on their devices, without the host. Made
// by Operators::make_peer_reducer; called by the graph executor.
#pragma once

#include <cstdint>

#include "kernels/operators.h"

namespace phalanx::kernels {

struct PeerReducerBounds {
  int rank = 0;
  int size = 1;
  int64_t max_rows = 0;
  int64_t num_cols = 0;          ///< K of the parts
  int64_t conversion_bytes = 0;  ///< activation_bytes of max_rows, in the largest form asked for
};

/// residual += sum over the ranks of their parts (+ bias); then, with a weight, rms_norm(residual)
/// * weight in the form that the next linear reads. The bits of add_rms_norm_of_parts and
/// convert_rows.
struct PeerAddNorm {
  int64_t num_rows = 0;
  Rows residual;
  const float* bias = nullptr;    ///< [K]
  const float* weight = nullptr;  ///< [K]; null: only the addition
  float eps = 0.0F;
  ActivationForm form = ActivationForm::kF32;
  int64_t group_size = 0;        ///< of kS8
  bool shares_residual = false;  ///< all ranks need all rows of the residual, not only their own
};

/// Every rank makes the same calls in the same order with the same shapes. Calls are operators. A
/// step: a linear writes part(), a call reduces it, and so on; then end_step(). All calls of a step
/// have the same num_rows.
class PeerReducer {
 public:
  virtual ~PeerReducer() = default;

  /// Where this rank's linear writes its rows for the next call; row-contiguous.
  virtual Rows part(int64_t num_rows) = 0;
  /// Returns where the conversions of all rows lie until the next call; without a weight nothing.
  virtual ActivationView add_rms_norm(const PeerAddNorm& reduce) = 0;
  virtual void end_step() = 0;
  /// After finish(): throws DeviceError naming the rank that did not come, if one did not.
  virtual void require_no_failure() = 0;
};

}  // namespace phalanx::kernels
