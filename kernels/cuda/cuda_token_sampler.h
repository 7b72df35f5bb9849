// The TokenSampler of the CUDA backend: DeviceSampler with its memory, and the way of what it drew
// to the host. Made by cuda_operators.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/cuda/device.h"
#include "kernels/cuda/device_sampler.h"
#include "kernels/token_sampler.h"

namespace phalanx::kernels::cuda {

class CudaOperators;

/// Executor thread only. The operators outlive it.
class CudaTokenSampler final : public TokenSampler {
 public:
  CudaTokenSampler(CudaOperators& operators, Device& device, const TokenSamplerBounds& bounds);

  /// Bytes of device memory.
  static int64_t bytes(const TokenSamplerBounds& bounds);

  void start(uint32_t slot, const DrawParams& params, std::span<const int32_t> history,
             int64_t num_prompt_tokens) override;
  void release(uint32_t slot) override;
  void feed_back(const StepRows& staged) override;
  void draw(ConstRows logits, const StepRows& staged) override;
  void send_draws(int64_t num_rows) override;
  bool has_draws() override;
  std::span<const DrawnToken> take_draws() override;

 private:
  CudaOperators& operators_;
  Device& device_;
  std::shared_ptr<std::byte> memory_;
  std::shared_ptr<std::byte> draws_;
  DeviceSampler sampler_;
  std::array<std::shared_ptr<std::byte>, kMostStepsInFlight> on_host_;
  std::array<int64_t, kMostStepsInFlight> num_rows_{};
  int64_t num_sent_ = 0;
  int64_t num_taken_ = 0;
};

}  // namespace phalanx::kernels::cuda
