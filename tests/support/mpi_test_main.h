// The MpiSession of a test program that runs under mpirun. Used by the tests with label mpi.
#pragma once

#include "parallel/mpi_session.h"

namespace phalanx::parallel {

/// The process's session. PHALANX_TEST_HOSTS, a string like "aabb", makes rank i believe that it
/// runs on host 'a' or 'b' by the i-th letter (counted around), so one machine stands for several.
MpiSession& test_session();

}  // namespace phalanx::parallel
