// Makes the CPU backend: instruction-set choice, team size. Called by the launcher and by tests.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/operators.h"
#include "runtime/base/trace_recorder.h"
#include "runtime/base/work_counter.h"

namespace phalanx::kernels {

/// Instruction-set tiers, worst to best. kPortable needs nothing beyond the compiler's baseline.
enum class IsaTier : uint8_t { kPortable, kAvx2, kAvx512 };

const char* isa_tier_name(IsaTier tier);  ///< "portable", "avx2", "avx512"
std::optional<IsaTier> parse_isa_tier(std::string_view name);

/// The best tier this processor runs: kAvx2 needs AVX2, FMA and F16C; kAvx512 needs AVX-512
/// F/BW/DQ/VL, VNNI and BF16.
IsaTier best_isa_tier();

struct CpuBackendOptions {
  int num_threads = 1;                 ///< the calling thread is one of them
  IsaTier isa_tier = best_isa_tier();  ///< at most best_isa_tier()
  bool spin = true;                    ///< false when ranks x threads exceed the cores: then
                                       ///< waiting threads sleep at once instead of spinning
  bool pin_threads = false;            ///< bind thread i to an allowed core of its own
  int first_core = 0;                  ///< thread i's: the (first_core + i)-th, round and round
  WorkCounter* work = nullptr;         ///< not owned; counts pieces inside operators, or null
  TraceRecorder* trace = nullptr;      ///< not owned; records what each thread does, or null
};

/// Errors: InternalError when a tier is asked for that the processor lacks, or num_threads < 1.
std::unique_ptr<Operators> make_cpu_operators(const CpuBackendOptions& options);

/// The oracle: scalar code written from the contract, one thread, no dispatch. Slow.
std::unique_ptr<Operators> make_reference_operators();

}  // namespace phalanx::kernels
