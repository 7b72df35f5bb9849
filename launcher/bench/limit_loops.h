// The innermost loops of machine_limits, one set an instruction-set tier. Called by machine_limits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu_backend.h"

namespace phalanx::bench {

/// A loop of independent instructions in registers.
struct PeakLoop {
  const char* instruction = nullptr;  ///< "vpdpbusd zmm"
  double ops_per_round = 0;           ///< a multiply and an add are two
  void (*run)(int64_t rounds) = nullptr;
};

struct LimitLoops {
  PeakLoop int8, bf16, f32;
  /// Reads `bytes` (a multiple of 512, 64-byte aligned) in order, `repeats` times, prefetching
  /// `prefetch_bytes` ahead (0: not at all). The result depends on every byte.
  uint64_t (*read)(const std::byte* data, int64_t bytes, int64_t repeats, int64_t prefetch_bytes);
};

/// The loops of a tier that this processor runs.
const LimitLoops& limit_loops(kernels::IsaTier tier);

const LimitLoops& limit_loops_portable();
const LimitLoops& limit_loops_avx2();       ///< off x86: the portable ones
const LimitLoops& limit_loops_avx2_vnni();  ///< off x86: the portable ones
const LimitLoops& limit_loops_avx512();     ///< off x86: the portable ones

}  // namespace phalanx::bench
