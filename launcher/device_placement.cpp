// Ranks and devices are matched by augmenting paths (Kuhn); hosts are small.
#include "launcher/device_placement.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "launcher/machine_topology.h"

namespace phalanx::launcher {
namespace {

class Matching {
 public:
  explicit Matching(const SeenDevices& seen) : seen_(seen), taken_(seen.size(), -1) {}

  bool place(size_t rank) {
    std::set<std::string> tried;
    return place(rank, tried);
  }
  const std::vector<int>& taken() const { return taken_; }

 private:
  void take(size_t rank, size_t index) {
    owners_[seen_[rank][index]] = rank;
    taken_[rank] = static_cast<int>(index);
  }

  /// A free device, or one whose owner finds another.
  bool place(size_t rank, std::set<std::string>& tried) {
    const std::vector<std::string>& devices = seen_[rank];
    for (size_t i = 0; i < devices.size(); ++i) {
      if (owners_.count(devices[i]) > 0 || !tried.insert(devices[i]).second) continue;
      take(rank, i);
      return true;
    }
    for (size_t i = 0; i < devices.size(); ++i) {
      if (!tried.insert(devices[i]).second || !place(owners_.at(devices[i]), tried)) continue;
      take(rank, i);
      return true;
    }
    return false;
  }

  const SeenDevices& seen_;
  std::vector<int> taken_;
  std::map<std::string, size_t> owners_;
};

Result<std::vector<int>> spread(const SeenDevices& seen) {
  std::map<std::string, int> num_ranks;
  std::vector<int> taken;
  for (size_t rank = 0; rank < seen.size(); ++rank) {
    if (seen[rank].empty())
      return failed_precondition("rank " + std::to_string(rank) + " of the host sees no GPU");
    const auto least =
        std::min_element(seen[rank].begin(), seen[rank].end(),
                         [&](const auto& a, const auto& b) { return num_ranks[a] < num_ranks[b]; });
    ++num_ranks[*least];
    taken.push_back(static_cast<int>(least - seen[rank].begin()));
  }
  return taken;
}

}  // namespace

Result<std::vector<int>> place_on_devices(const SeenDevices& seen, bool share_devices) {
  if (share_devices) return spread(seen);
  Matching matching(seen);
  for (size_t rank = 0; rank < seen.size(); ++rank) {
    if (matching.place(rank)) continue;
    return failed_precondition(
        "rank " + std::to_string(rank) + " of the host's " + std::to_string(seen.size()) +
        " finds no GPU of its own: it sees " + std::to_string(seen[rank].size()) +
        " (start fewer ranks on the host, or let them share with cuda.share_devices: true)");
  }
  return matching.taken();
}

std::vector<int> cpus_near_device(const std::string& pci_bus_id) {
  std::ifstream file("/sys/bus/pci/devices/" + pci_bus_id + "/local_cpulist");
  std::string list;
  if (pci_bus_id.empty() || !std::getline(file, list)) return {};
  return parse_cpu_list(list);
}

}  // namespace phalanx::launcher
