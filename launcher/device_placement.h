// Which GPU each rank of a host takes. A pure function of what they see; called by worker_setup.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace phalanx::launcher {

/// The devices that each rank of a host sees, in the rank's own numbering, each by a name that is
/// the same for all ranks (the UUID). Slurm and CUDA_VISIBLE_DEVICES may show ranks different ones.
using SeenDevices = std::vector<std::vector<std::string>>;

/// The index, in each rank's numbering, of the device it takes: each a device of its own, so that
/// all get one if that is possible; ranks that see the same devices take them in order. With
/// `share_devices` the ranks spread evenly over what they see.
/// Errors: kFailedPrecondition naming the first rank (by its place on the host) that is left
/// without.
Result<std::vector<int>> place_on_devices(const SeenDevices& seen, bool share_devices);

/// The processors nearest to a device on the PCI bus ("0000:3b:00.0") as the kernel says; empty
/// when it does not.
std::vector<int> cpus_near_device(const std::string& pci_bus_id);

}  // namespace phalanx::launcher
