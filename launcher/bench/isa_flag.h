// The --isa flag of commands that run kernels or their limits in this process. Used by limits and
// kernels.
#pragma once

#include "kernels/cpu_backend.h"
#include "launcher/bench/bench_options.h"

namespace phalanx::bench {

Flag isa_flag();

/// The tier asked for; "auto" is the best. Errors: kInvalidArgument for a name, or for a tier that
/// this processor does not run.
Result<kernels::IsaTier> read_isa_flag(const BenchOptions& options);

}  // namespace phalanx::bench
