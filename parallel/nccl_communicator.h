// The NCCL transport for GPU tensors. CMake builds either it or no_nccl.cpp. Called by the
// launcher.
#pragma once

#include <memory>
#include <span>

#include "parallel/communicator.h"

namespace phalanx::parallel {

class MpiSession;

/// Whether this build has the NCCL transport.
bool nccl_available();

/// Like MpiSession::make_communicator, for device memory of device `device_index`. Errors:
/// DeviceError when this build has no NCCL or NCCL refuses.
std::unique_ptr<Communicator> make_nccl_communicator(MpiSession& session,
                                                     std::span<const int> ranks, int device_index,
                                                     const CommunicatorOptions& options,
                                                     const AbortFlag* abort);

}  // namespace phalanx::parallel
