// What a backend on host memory shares: moving bytes is copying them.
#include "kernels/operators.h"

#include <cstring>
#include <string>

#include "kernels/peer_reducer.h"
#include "kernels/token_sampler.h"
#include "runtime/base/check.h"

namespace phalanx::kernels {

void Operators::upload(std::byte* to, std::span<const std::byte> from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}

void Operators::download(std::span<std::byte> to, const std::byte* from) {
  if (!to.empty()) std::memcpy(to.data(), from, to.size());
}

std::unique_ptr<TokenSampler> Operators::make_token_sampler(const TokenSamplerBounds& /*bounds*/) {
  return nullptr;
}

std::unique_ptr<PeerReducer> Operators::make_peer_reducer(const PeerReducerBounds& /*bounds*/,
                                                          const PeerExchange& /*exchange*/,
                                                          std::string* why_none) {
  if (why_none != nullptr) *why_none = "the CPU's ranks meet on the host";
  return nullptr;
}

void require_drawn(const DrawnToken& draw, uint32_t slot, int64_t position) {
  const std::string where =
      "slot " + std::to_string(slot) + " at position " + std::to_string(position);
  PHALANX_CHECK(draw.status != DrawStatus::kNotStarted,
                "slot " + std::to_string(slot) + " samples before it starts");
  PHALANX_CHECK(draw.status != DrawStatus::kNoFiniteLogit, "no finite logit in " + where);
  PHALANX_CHECK(draw.status != DrawStatus::kNothingPenalized,
                "penalties left no finite logit in " + where);
  PHALANX_CHECK(draw.status == DrawStatus::kDrawn, "nothing was drawn from " + where);
}

}  // namespace phalanx::kernels
