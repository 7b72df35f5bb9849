// Makes the CPU backend: instruction-set choice, team size. Called by the launcher and by tests.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/operators.h"
#include "runtime/base/trace_recorder.h"
#include "runtime/base/work_counter.h"

namespace phalanx::kernels {

namespace cpu {
class LinearTunings;
}

/// Instruction-set tiers, worst to best. kPortable needs nothing beyond the compiler's baseline.
enum class IsaTier : uint8_t { kPortable, kAvx2, kAvx2Vnni, kAvx512 };

inline constexpr IsaTier kIsaTiers[] = {IsaTier::kPortable, IsaTier::kAvx2, IsaTier::kAvx2Vnni,
                                        IsaTier::kAvx512};

const char* isa_tier_name(IsaTier tier);  ///< "portable", "avx2", "avx2vnni", "avx512"
std::optional<IsaTier> parse_isa_tier(std::string_view name);

/// The best tier this processor runs: kAvx2 needs AVX2, FMA and F16C; kAvx2Vnni besides AVX-VNNI or
/// AVX-512 VNNI with F and VL; kAvx512 needs AVX-512 F/BW/DQ/VL, VNNI and BF16.
IsaTier best_isa_tier();

/// Which of the two instructions kAvx2Vnni uses: true with AVX-VNNI (vpdpbusd in VEX encoding).
bool has_vex_vnni();

struct CpuBackendOptions {
  int num_threads = 1;                 ///< the calling thread is one of them
  IsaTier isa_tier = best_isa_tier();  ///< at most best_isa_tier()
  bool spin = true;                    ///< false when ranks x threads exceed the cores: then
                                       ///< waiting threads sleep at once instead of spinning
  std::vector<int> cpus;               ///< thread i is bound to cpus[i]; empty: none is
  std::vector<int> memory_nodes;       ///< NUMA nodes of the cpus the threads run on; over several,
                                       ///< what allocate() gives is spread evenly
  /// How products are cut, where a tuner found better than the default; null: nowhere.
  std::shared_ptr<const cpu::LinearTunings> tunings;
  WorkCounter* work = nullptr;     ///< not owned; counts pieces inside operators, or null
  TraceRecorder* trace = nullptr;  ///< not owned; records what each thread does, or null
};

/// Errors: InternalError when a tier is asked for that the processor lacks, or num_threads < 1.
std::unique_ptr<Operators> make_cpu_operators(const CpuBackendOptions& options);

/// The oracle: scalar code written from the contract, one thread, no dispatch. Slow.
std::unique_ptr<Operators> make_reference_operators();

}  // namespace phalanx::kernels
