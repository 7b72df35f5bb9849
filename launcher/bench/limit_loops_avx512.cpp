// The AVX-512 loops of machine_limits; nothing here runs unless the processor has VNNI and BF16.
// Called through limit_loops.
#include "launcher/bench/limit_loops.h"
#include "launcher/bench/limit_loops_body.h"

namespace phalanx::bench {
namespace {

constexpr int kChains = 12;  // independent: more than latency times issue rate of any processor

// The sources are zeroed first: no denormal or NaN slows a processor down.
#define PHALANX_PEAK_LOOP(name, instruction)                                                  \
  void name(int64_t rounds) {                                                                 \
    asm volatile(                                                                             \
        "vpxord %%zmm16, %%zmm16, %%zmm16\n vpxord %%zmm17, %%zmm17, %%zmm17\n"               \
        "vpxord %%zmm0, %%zmm0, %%zmm0\n vpxord %%zmm1, %%zmm1, %%zmm1\n"                     \
        "vpxord %%zmm2, %%zmm2, %%zmm2\n vpxord %%zmm3, %%zmm3, %%zmm3\n"                     \
        "vpxord %%zmm4, %%zmm4, %%zmm4\n vpxord %%zmm5, %%zmm5, %%zmm5\n"                     \
        "vpxord %%zmm6, %%zmm6, %%zmm6\n vpxord %%zmm7, %%zmm7, %%zmm7\n"                     \
        "vpxord %%zmm8, %%zmm8, %%zmm8\n vpxord %%zmm9, %%zmm9, %%zmm9\n"                     \
        "vpxord %%zmm10, %%zmm10, %%zmm10\n vpxord %%zmm11, %%zmm11, %%zmm11\n"               \
        "1:\n" instruction " %%zmm16, %%zmm17, %%zmm0\n" instruction                          \
        " %%zmm16, %%zmm17, %%zmm1\n" instruction " %%zmm16, %%zmm17, %%zmm2\n" instruction   \
        " %%zmm16, %%zmm17, %%zmm3\n" instruction " %%zmm16, %%zmm17, %%zmm4\n" instruction   \
        " %%zmm16, %%zmm17, %%zmm5\n" instruction " %%zmm16, %%zmm17, %%zmm6\n" instruction   \
        " %%zmm16, %%zmm17, %%zmm7\n" instruction " %%zmm16, %%zmm17, %%zmm8\n" instruction   \
        " %%zmm16, %%zmm17, %%zmm9\n" instruction " %%zmm16, %%zmm17, %%zmm10\n" instruction  \
        " %%zmm16, %%zmm17, %%zmm11\n"                                                        \
        "dec %0\n jnz 1b\n vzeroupper\n"                                                      \
        : "+r"(rounds)::"cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
          "xmm8", "xmm9", "xmm10", "xmm11", "xmm16", "xmm17");                                \
  }

PHALANX_PEAK_LOOP(int8_peak, "vpdpbusd")
PHALANX_PEAK_LOOP(bf16_peak, "vdpbf16ps")
PHALANX_PEAK_LOOP(f32_peak, "vfmadd231ps")
#undef PHALANX_PEAK_LOOP

}  // namespace

const LimitLoops& limit_loops_avx512() {
  static const LimitLoops kLoops = {{"vpdpbusd zmm", kChains * 128.0, int8_peak},
                                    {"vdpbf16ps zmm", kChains * 64.0, bf16_peak},
                                    {"vfmadd231ps zmm", kChains * 32.0, f32_peak},
                                    ReadLoop<64>::read};
  return kLoops;
}

}  // namespace phalanx::bench
