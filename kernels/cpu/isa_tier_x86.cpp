// What this x86 processor and its operating system can run. Called by make_cpu_operators.
#include <cstdint>

#include <cpuid.h>

#include "kernels/cpu_backend.h"

namespace phalanx::kernels {
namespace {

struct CpuidLeaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;  ///< zero when the processor lacks the leaf
};

CpuidLeaf cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidLeaf out;
  if (__get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx) == 0) return {};
  return out;
}

constexpr bool has_bits(uint32_t value, uint32_t bits) { return (value & bits) == bits; }
constexpr uint32_t bit(int index) { return 1U << index; }

/// Register state the operating system saves: without it the instructions fault.
uint32_t enabled_register_state() {
  uint32_t low = 0;
  uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

IsaTier detect() {
  const CpuidLeaf basic = cpuid(1, 0);
  // FMA, OSXSAVE, AVX, F16C.
  if (!has_bits(basic.ecx, bit(12) | bit(27) | bit(28) | bit(29))) return IsaTier::kPortable;
  const uint32_t state = enabled_register_state();
  const CpuidLeaf extended = cpuid(7, 0);
  // SSE and AVX state; AVX2.
  if (!has_bits(state, bit(1) | bit(2)) || !has_bits(extended.ebx, bit(5))) {
    return IsaTier::kPortable;
  }
  const bool evex_vnni = has_bits(state, bit(5) | bit(6) | bit(7)) &&  // masks, upper halves, 16-31
                         has_bits(extended.ebx, bit(16) | bit(31)) &&  // F VL
                         has_bits(extended.ecx, bit(11));              // VNNI
  const bool whole = has_bits(extended.ebx, bit(17) | bit(30));        // DQ BW
  const bool bf16 = extended.eax >= 1 && has_bits(cpuid(7, 1).eax, bit(5));
  if (evex_vnni && whole && bf16) return IsaTier::kAvx512;
  return evex_vnni || has_vex_vnni() ? IsaTier::kAvx2Vnni : IsaTier::kAvx2;
}

}  // namespace

bool has_vex_vnni() {
  static const bool has = cpuid(7, 0).eax >= 1 && has_bits(cpuid(7, 1).eax, bit(4));
  return has;
}

IsaTier best_isa_tier() {
  static const IsaTier tier = detect();
  return tier;
}

}  // namespace phalanx::kernels
