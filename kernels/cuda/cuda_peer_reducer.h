// The PeerReducer of the CUDA backend: a PeerGroup whose kernels are operators. Made by
// cuda_operators.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/peer_group.h"
#include "kernels/peer_reducer.h"

namespace phalanx::kernels::cuda {

class CudaOperators;

/// Executor thread only. The operators outlive it.
class CudaPeerReducer final : public PeerReducer {
 public:
  /// Null, and why, where the ranks cannot reach each other's memory. Collective.
  static std::unique_ptr<PeerReducer> make(CudaOperators& operators, Device& device,
                                           const PeerReducerBounds& bounds,
                                           const PeerExchange& exchange, std::string* why_none);

  CudaPeerReducer(CudaOperators& operators, Device& device, std::unique_ptr<PeerGroup> group);

  Rows part(int64_t num_rows) override { return group_->part(num_rows); }
  ActivationView add_rms_norm(const PeerAddNorm& reduce) override;
  void end_step() override;
  void require_no_failure() override { group_->require_no_failure(); }

 private:
  CudaOperators& operators_;
  Device& device_;
  std::unique_ptr<PeerGroup> group_;
};

}  // namespace phalanx::kernels::cuda
