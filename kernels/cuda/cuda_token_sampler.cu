// Two host buffers and two fences by turns: a step's tokens are taken while the next one runs.
#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/cuda_token_sampler.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

DeviceSamplerLimits limits_of(const TokenSamplerBounds& bounds) {
  return {bounds.vocab_size, bounds.num_slots, bounds.num_slots, bounds.num_slots};
}

int64_t draws_bytes(const TokenSamplerBounds& bounds) {
  return bounds.num_slots * static_cast<int64_t>(sizeof(DrawnToken));
}

size_t turn_of(int64_t step) { return static_cast<size_t>(step % kMostStepsInFlight); }

}  // namespace

CudaTokenSampler::CudaTokenSampler(CudaOperators& operators, Device& device,
                                   const TokenSamplerBounds& bounds)
    : operators_(operators),
      device_(device),
      memory_(device.allocate(device_sampler_bytes(limits_of(bounds)))),
      draws_(device.allocate(draws_bytes(bounds))),
      sampler_(limits_of(bounds), memory_.get()) {
  for (auto& buffer : on_host_) buffer = device.allocate_host(draws_bytes(bounds));
}

int64_t CudaTokenSampler::bytes(const TokenSamplerBounds& bounds) {
  return device_sampler_bytes(limits_of(bounds)) + draws_bytes(bounds);
}

void CudaTokenSampler::start(uint32_t slot, const DrawParams& params,
                             std::span<const int32_t> history, int64_t num_prompt_tokens) {
  operators_.flush();
  sampler_.start(slot, params, history, num_prompt_tokens, device_.stream());
}

void CudaTokenSampler::release(uint32_t slot) {
  operators_.flush();
  sampler_.release(slot, device_.stream());
}

void CudaTokenSampler::feed_back(const StepRows& staged) {
  PHALANX_CHECK_EQ(staged.token_slots.size(), staged.token_ids.size(), "slots of fed-back tokens");
  operators_.flush();
  sampler_.fill_fed_back(staged.token_slots.data(), static_cast<int64_t>(staged.token_slots.size()),
                         const_cast<int32_t*>(staged.token_ids.data()), device_.stream());
  operators_.enqueued();
}

void CudaTokenSampler::draw(ConstRows logits, const StepRows& staged) {
  operators_.flush();
  sampler_.sample(logits, staged.draws.data(), static_cast<int64_t>(staged.draws.size()),
                  reinterpret_cast<DrawnToken*>(draws_.get()), device_.stream());
  operators_.enqueued();
}

void CudaTokenSampler::send_draws(int64_t num_rows) {
  PHALANX_CHECK_LT(num_sent_ - num_taken_, int64_t{kMostStepsInFlight}, "steps in flight");
  operators_.flush();
  const size_t turn = turn_of(num_sent_++);
  num_rows_[turn] = num_rows;
  device_.copy_to_host(on_host_[turn].get(), draws_.get(),
                       num_rows * static_cast<int64_t>(sizeof(DrawnToken)));
  device_.set_fence(static_cast<int>(turn));
}

bool CudaTokenSampler::has_draws() {
  PHALANX_CHECK_LT(num_taken_, num_sent_, "no step is in flight");
  return device_.has_passed(static_cast<int>(turn_of(num_taken_)));
}

std::span<const DrawnToken> CudaTokenSampler::take_draws() {
  PHALANX_CHECK_LT(num_taken_, num_sent_, "no step is in flight");
  const size_t turn = turn_of(num_taken_++);
  device_.wait_for(static_cast<int>(turn));
  operators_.count_progress();
  return {reinterpret_cast<const DrawnToken*>(on_host_[turn].get()),
          static_cast<size_t>(num_rows_[turn])};
}

}  // namespace phalanx::kernels::cuda
