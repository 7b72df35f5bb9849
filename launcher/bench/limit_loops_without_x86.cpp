// Stands in for the x86 loops of machine_limits on other processors. Called by limit_loops.
#include "launcher/bench/limit_loops.h"

namespace phalanx::bench {

const LimitLoops& limit_loops_avx2() { return limit_loops_portable(); }
const LimitLoops& limit_loops_avx2_vnni() { return limit_loops_portable(); }
const LimitLoops& limit_loops_avx512() { return limit_loops_portable(); }

}  // namespace phalanx::bench
