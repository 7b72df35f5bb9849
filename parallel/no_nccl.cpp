// Stands in for the NCCL transport in builds without CUDA. Chosen by CMake.
#include "parallel/nccl_communicator.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {

bool nccl_available() { return false; }

std::unique_ptr<Communicator> make_nccl_communicator(MpiSession&, std::span<const int>, int,
                                                     const CommunicatorOptions&, const AbortFlag*) {
  throw DeviceError("this build has no NCCL transport: configure with PHALANX_CUDA=ON and NCCL");
}

}  // namespace phalanx::parallel
