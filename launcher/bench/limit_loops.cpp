// The portable loops of machine_limits and the choice of a tier's.
#include "launcher/bench/limit_loops.h"

#include "launcher/bench/limit_loops_body.h"
#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

constexpr int kChains = 12;       // of a multiply and an add each; with the factor, 13 registers
constexpr int kVectorFloats = 4;  // every 64-bit processor has 16-byte vectors

void f32_peak(int64_t rounds) {
  using Vector = float __attribute__((vector_size(kVectorFloats * sizeof(float))));
  Vector sums[kChains] = {};
  volatile float opaque = 0;  // a constant would let the compiler compute the sums itself
  const Vector factor = Vector{} + opaque;
  for (int64_t i = 0; i < rounds; ++i) {
    for (Vector& sum : sums) sum = sum * factor + factor;
  }
  Vector all = {};
  for (const Vector& sum : sums) all += sum;
  volatile float sink = all[0];
  static_cast<void>(sink);
}

}  // namespace

const LimitLoops& limit_loops_portable() {
  static const PeakLoop kF32 = {"f32 multiply and add", 2.0 * kChains * kVectorFloats, f32_peak};
  static const LimitLoops kLoops = {kF32, kF32, kF32, ReadLoop<16>::read};
  return kLoops;
}

const LimitLoops& limit_loops(kernels::IsaTier tier) {
  PHALANX_CHECK_LE(static_cast<int>(tier), static_cast<int>(kernels::best_isa_tier()),
                   "tier of the limits");
  switch (tier) {
    case kernels::IsaTier::kPortable:
      return limit_loops_portable();
    case kernels::IsaTier::kAvx2:
      return limit_loops_avx2();
    case kernels::IsaTier::kAvx2Vnni:
      return limit_loops_avx2_vnni();
    case kernels::IsaTier::kAvx512:
      return limit_loops_avx512();
  }
  return limit_loops_portable();
}

}  // namespace phalanx::bench
