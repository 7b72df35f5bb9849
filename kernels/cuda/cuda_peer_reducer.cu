// Calls of the group, in order with the operators.
#include <bit>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/cuda_peer_reducer.h"

namespace phalanx::kernels::cuda {

std::unique_ptr<PeerReducer> CudaPeerReducer::make(CudaOperators& operators, Device& device,
                                                   const PeerReducerBounds& bounds,
                                                   const PeerExchange& exchange,
                                                   std::string* why_none) {
  if (bounds.size > PeerGroup::kMaxSize ||
      !std::has_single_bit(static_cast<unsigned>(bounds.size))) {
    if (why_none != nullptr)
      *why_none = "peer memory serves 2, 4 or 8 ranks, not " + std::to_string(bounds.size);
    return nullptr;
  }
  PeerGroupOptions options;
  options.max_rows = bounds.max_rows;
  options.num_cols = bounds.num_cols;
  options.conversion_bytes = bounds.conversion_bytes;
  auto memory = PeerMemory::create(PeerGroup::region_bytes(options, bounds.size), bounds.rank,
                                   bounds.size, exchange);
  if (!memory.ok()) {
    if (why_none != nullptr) *why_none = memory.error().message;
    return nullptr;
  }
  return std::make_unique<CudaPeerReducer>(
      operators, device, std::make_unique<PeerGroup>(std::move(memory).value(), options, exchange));
}

CudaPeerReducer::CudaPeerReducer(CudaOperators& operators, Device& device,
                                 std::unique_ptr<PeerGroup> group)
    : operators_(operators), device_(device), group_(std::move(group)) {}

ActivationView CudaPeerReducer::add_rms_norm(const PeerAddNorm& reduce) {
  operators_.flush();
  const ActivationView view = group_->add_rms_norm(reduce, device_.stream());
  operators_.enqueued();
  return view;
}

void CudaPeerReducer::end_step() {
  operators_.flush();
  group_->end_step(device_.stream());
}

}  // namespace phalanx::kernels::cuda
