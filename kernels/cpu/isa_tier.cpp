// Names of the instruction-set tiers. Called by the launcher's flags, banners and tests.
#include "kernels/cpu_backend.h"

namespace phalanx::kernels {

const char* isa_tier_name(IsaTier tier) {
  switch (tier) {
    case IsaTier::kPortable:
      return "portable";
    case IsaTier::kAvx2:
      return "avx2";
    case IsaTier::kAvx2Vnni:
      return "avx2vnni";
    case IsaTier::kAvx512:
      return "avx512";
  }
  return "unknown";
}

std::optional<IsaTier> parse_isa_tier(std::string_view name) {
  for (const IsaTier tier : kIsaTiers) {
    if (name == isa_tier_name(tier)) return tier;
  }
  return std::nullopt;
}

}  // namespace phalanx::kernels
