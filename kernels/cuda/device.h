// One GPU as its rank uses it: memory, one stream in which everything runs, recorded steps. The
// build links either the CUDA one or, in tests, the emulated one. Owned by cuda_operators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/launch.h"

namespace phalanx::kernels::cuda {

struct DeviceInfo {
  int index = 0;
  std::string name;
  std::string uuid;        ///< names it whatever the process sees it as
  std::string pci_bus_id;  ///< "0000:3b:00.0"; empty for the emulated device
  int compute_major = 0, compute_minor = 0;
  int num_multiprocessors = 0;
  int64_t shared_bytes_of_block = 0;  ///< at most
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;
};

/// The GPUs that this process sees. Empty, and why, where there is none: no driver, no device. Does
/// not make a context on any of them.
std::vector<DeviceInfo> find_devices(std::string* why_none);

/// What record() keeps: operators with their arguments, in order.
class Recording {
 public:
  virtual ~Recording() = default;
};

/// Executor thread only. Errors: DeviceError naming device and call; what a kernel did wrong shows
/// in a later call (CUDA's asynchronous errors), at the latest in synchronize().
class Device {
 public:
  /// Takes device `index` of find_devices(), and makes it the calling thread's current one.
  static std::unique_ptr<Device> open(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const DeviceInfo& info() const;
  Stream stream() const;

  /// Zeroed memory of the device, aligned to 256 bytes; freed with the owner, which outlives what
  /// runs on it. Not in a step: waits for the device.
  std::shared_ptr<std::byte> allocate(int64_t bytes);
  /// Zeroed host memory from which the device copies without the host's help (pinned).
  std::shared_ptr<std::byte> allocate_host(int64_t bytes);

  /// In the stream's order. Host memory is pinned and stays as it is until the stream has passed.
  void copy_to_device(void* device, const void* host, int64_t bytes);
  void copy_to_host(void* host, const void* device, int64_t bytes);

  /// A place in the stream whose passing synchronize() tells of. At most kMaxMarks count between
  /// two waits.
  void mark();
  static constexpr int kMaxMarks = 256;
  /// Waits until the stream has passed, spinning first and then asleep; `on_mark` is called for
  /// each mark that has passed, in order. `on_wait` is called meanwhile, every some microseconds:
  /// for whoever watches what the stream itself waits for, peers; when it throws, the wait ends.
  void synchronize(const std::function<void()>& on_mark = {},
                   const std::function<void()>& on_wait = {});

  /// The place in the stream now; two of them, 0 and 1, are there to be used by turns.
  void set_fence(int index);
  bool has_passed(int index) const;
  /// As synchronize(), up to the fence.
  void wait_for(int index);

  /// Keeps what `enqueue` launches and copies, instead of running it.
  std::unique_ptr<Recording> record(const std::function<void()>& enqueue);
  void replay(const Recording& recording);

 private:
  struct State;
  explicit Device(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace phalanx::kernels::cuda
