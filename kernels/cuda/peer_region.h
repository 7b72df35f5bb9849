// The device's side of PeerMemory: one rank's region, allocated here or mapped from another
// process. Called by peer_memory.cpp; implemented by peer_region_cuda.cpp and
// peer_region_emulated.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace phalanx::kernels::cuda {

/// Owns memory of this process's device, or a mapping of another's. Freed by the last owner.
class PeerRegion {
 public:
  virtual ~PeerRegion() = default;
  virtual std::byte* data() const = 0;
  /// Of one's own region; see PeerMemory::host_words.
  virtual uint32_t* host_words() const = 0;
  virtual void clear(int64_t bytes) = 0;

  /// How another process maps it: words of printable text.
  virtual std::string ticket() const = 0;
  /// Once all have mapped it.
  virtual void drop_ticket() = 0;
};

/// The current device: its name among those of this host, one word; and its size.
struct PeerDevice {
  std::string name;
  int multiprocessors = 1;
};
PeerDevice current_peer_device();

/// Zeroed. Errors: DeviceError.
std::shared_ptr<PeerRegion> allocate_peer_region(int64_t bytes);

/// The region of a ticket from another process of this host, on `device`, mapped for the current
/// device. Errors: DeviceError, which says why it cannot be reached.
std::shared_ptr<PeerRegion> open_peer_region(const std::string& ticket, const std::string& device,
                                             int64_t bytes);

/// Makes plain pointers into memory of `device`, of this process, good for the current device.
/// Errors: DeviceError, as above.
void require_peer_access(const std::string& device);

}  // namespace phalanx::kernels::cuda
