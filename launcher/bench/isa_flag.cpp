// Parses --isa. Used by limits and kernels.
#include "launcher/bench/isa_flag.h"

#include <string>

namespace phalanx::bench {

using kernels::IsaTier;

Flag isa_flag() { return {"--isa", "TIER", "auto", "auto, portable, avx2, avx2vnni or avx512"}; }

Result<IsaTier> read_isa_flag(const BenchOptions& options) {
  PHALANX_ASSIGN_OR_RETURN(
      const std::string name,
      options.one_of("--isa", {"auto", "portable", "avx2", "avx2vnni", "avx512"}));
  const IsaTier best = kernels::best_isa_tier();
  const IsaTier tier = kernels::parse_isa_tier(name).value_or(best);
  if (tier > best)
    return invalid_argument("--isa is \"" + name + "\", this processor runs at most " +
                            kernels::isa_tier_name(best));
  return tier;
}

}  // namespace phalanx::bench
