// The NCCL transport for memory of GPUs. Called by the launcher while it builds the groups.
#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <string>

#include "parallel/communicator.h"
#include "parallel/device_communicator.h"

namespace phalanx::parallel {

class MpiSession;

struct NcclOptions {
  /// What the loader looks up, or a path.
  std::string library = "libnccl.so.2";
  /// From the moment when all members have NCCL until their devices are connected. It looks for
  /// networks and may probe them, some seconds on a large cluster; counts with a JobMonitor too,
  /// for which ranks that all wait are no failure.
  std::chrono::milliseconds connect_deadline{120'000};
  /// Of one verb's call that has to open connections first, which wants the peers to call it too.
  std::chrono::milliseconds call_deadline{60'000};
  /// Of one wait for the stream (check), in a group without an abort flag; with one a JobMonitor
  /// decides.
  std::chrono::milliseconds wait_deadline{60'000};
  /// Of an orderly end, until all members have come to theirs; then the group is aborted.
  std::chrono::milliseconds finish_deadline{5'000};
};

/// Collective over `ranks` (ascending global ranks, this one among them, at least two), while
/// loading: a communicator for the devices that are current in the calling threads. `group` is the
/// same ranks' communicator on the host, over which they find each other; it is not used later. The
/// destructor is collective too unless an exception unwinds, and comes before the stream's and the
/// device's. `abort` may be null. Errors, on all members alike where one cannot load NCCL or the
/// versions differ: DeviceError.
std::unique_ptr<DeviceCommunicator> make_nccl_communicator(const MpiSession& session,
                                                           std::span<const int> ranks,
                                                           Communicator& group,
                                                           const NcclOptions& options,
                                                           const AbortFlag* abort);

}  // namespace phalanx::parallel
