// The AVX2 loops of machine_limits; nothing here runs unless the processor has AVX2 and FMA.
// Called through limit_loops.
#include "launcher/bench/limit_loops.h"
#include "launcher/bench/limit_loops_body.h"

namespace phalanx::bench {
namespace {

// The sources are zeroed first: no denormal or NaN slows a processor down.
constexpr int kF32Chains = 12;
void f32_peak(int64_t rounds) {
  asm volatile(
      "vzeroall\n"
      "1:\n"
      "vfmadd231ps %%ymm14, %%ymm15, %%ymm0\n vfmadd231ps %%ymm14, %%ymm15, %%ymm1\n"
      "vfmadd231ps %%ymm14, %%ymm15, %%ymm2\n vfmadd231ps %%ymm14, %%ymm15, %%ymm3\n"
      "vfmadd231ps %%ymm14, %%ymm15, %%ymm4\n vfmadd231ps %%ymm14, %%ymm15, %%ymm5\n"
      "vfmadd231ps %%ymm14, %%ymm15, %%ymm6\n vfmadd231ps %%ymm14, %%ymm15, %%ymm7\n"
      "vfmadd231ps %%ymm14, %%ymm15, %%ymm8\n vfmadd231ps %%ymm14, %%ymm15, %%ymm9\n"
      "vfmadd231ps %%ymm14, %%ymm15, %%ymm10\n vfmadd231ps %%ymm14, %%ymm15, %%ymm11\n"
      "dec %0\n jnz 1b\n vzeroupper\n"
      : "+r"(rounds)::"cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm14", "xmm15");
}

// One dot product of 32 bytes is vpmaddubsw, vpmaddwd by ones, vpaddd.
constexpr int kInt8Chains = 6;
#define PHALANX_DOT(temporary, sum)                                                                \
  "vpmaddubsw %%ymm14, %%ymm15, %%" temporary "\n vpmaddwd %%" temporary ", %%ymm13, %%" temporary \
  "\n vpaddd %%" temporary ", %%" sum ", %%" sum "\n"
void int8_peak(int64_t rounds) {
  asm volatile(
      "vzeroall\n"
      "1:\n" PHALANX_DOT("ymm6", "ymm0") PHALANX_DOT("ymm7", "ymm1") PHALANX_DOT("ymm8", "ymm2")
          PHALANX_DOT("ymm9", "ymm3") PHALANX_DOT("ymm10", "ymm4")
              PHALANX_DOT("ymm11", "ymm5") "dec %0\n jnz 1b\n vzeroupper\n"
      : "+r"(rounds)::"cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm13", "xmm14", "xmm15");
}
#undef PHALANX_DOT

constexpr int kVnniChains = 12;
#define PHALANX_TWELVE_DOTS(encoding)                     \
  encoding "vpdpbusd %%ymm14, %%ymm15, %%ymm0\n" encoding \
           "vpdpbusd %%ymm14, %%ymm15, %%ymm1\n" encoding \
           "vpdpbusd %%ymm14, %%ymm15, %%ymm2\n" encoding \
           "vpdpbusd %%ymm14, %%ymm15, %%ymm3\n" encoding \
           "vpdpbusd %%ymm14, %%ymm15, %%ymm4\n" encoding \
           "vpdpbusd %%ymm14, %%ymm15, %%ymm5\n" encoding \
           "vpdpbusd %%ymm14, %%ymm15, %%ymm6\n" encoding \
           "vpdpbusd %%ymm14, %%ymm15, %%ymm7\n" encoding \
           "vpdpbusd %%ymm14, %%ymm15, %%ymm8\n" encoding \
           "vpdpbusd %%ymm14, %%ymm15, %%ymm9\n" encoding \
           "vpdpbusd %%ymm14, %%ymm15, %%ymm10\n" encoding "vpdpbusd %%ymm14, %%ymm15, %%ymm11\n"
#define PHALANX_VNNI_PEAK(name, encoding)                                                        \
  void name(int64_t rounds) {                                                                    \
    asm volatile("vzeroall\n1:\n" PHALANX_TWELVE_DOTS(encoding) "dec %0\n jnz 1b\n vzeroupper\n" \
                 : "+r"(rounds)::"cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",   \
                   "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", "xmm15");                  \
  }
PHALANX_VNNI_PEAK(int8_peak_vex, "%{vex%} ")
PHALANX_VNNI_PEAK(int8_peak_evex, "%{evex%} ")
#undef PHALANX_VNNI_PEAK
#undef PHALANX_TWELVE_DOTS

}  // namespace

const LimitLoops& limit_loops_avx2() {
  static const PeakLoop kF32 = {"vfmadd231ps ymm", kF32Chains * 16.0, f32_peak};
  static const LimitLoops kLoops = {
      {"vpmaddubsw + vpmaddwd + vpaddd ymm", kInt8Chains * 64.0, int8_peak},
      kF32,
      kF32,
      ReadLoop<32>::read};
  return kLoops;
}

const LimitLoops& limit_loops_avx2_vnni() {
  static const LimitLoops kLoops = [] {
    LimitLoops loops = limit_loops_avx2();
    loops.int8 = {"vpdpbusd ymm", kVnniChains * 64.0,
                  kernels::has_vex_vnni() ? int8_peak_vex : int8_peak_evex};
    return loops;
  }();
  return kLoops;
}

}  // namespace phalanx::bench
