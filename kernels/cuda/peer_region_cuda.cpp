// Regions of CUDA devices: cudaMalloc'd memory, which other processes map through IPC handles.
#include <array>
#include <cstdio>
#include <cstring>
#include <utility>

#include <cuda_runtime.h>

#include "kernels/cuda/peer_memory.h"
#include "kernels/cuda/peer_region.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

void require(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // forgets it: the next launch is not to blame
  throw DeviceError(what + ": " + cudaGetErrorString(error));
}

/// A handle opens the whole block of the driver that the memory lies in: regions have blocks of
/// their own.
constexpr int64_t kBlockBytes = int64_t{2} << 20;

/// What a ticket begins with where there are no handles (some containers, some systems).
constexpr const char* kNoHandle = "cudaIpcGetMemHandle: ";

std::string text_of(const cudaIpcMemHandle_t& handle) {
  std::string text;
  std::array<char, 3> digits{};
  for (const char byte : handle.reserved) {
    std::snprintf(digits.data(), digits.size(), "%02x", static_cast<unsigned char>(byte));
    text += digits.data();
  }
  return text;
}

cudaIpcMemHandle_t handle_of(const std::string& text) {
  cudaIpcMemHandle_t handle{};
  PHALANX_CHECK_EQ(text.size(), 2 * sizeof(handle.reserved), "digits of an IPC handle");
  for (size_t i = 0; i < sizeof(handle.reserved); ++i)
    handle.reserved[i] = static_cast<char>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  return handle;
}

class AllocatedRegion : public PeerRegion {
 public:
  explicit AllocatedRegion(int64_t bytes) {
    const auto whole = static_cast<size_t>((bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
    require(cudaMalloc(&data_, whole), "cudaMalloc of " + std::to_string(whole) + " bytes");
    try {
      void* words = nullptr;
      constexpr size_t kWordBytes = PeerMemory::kNumHostWords * sizeof(uint32_t);
      require(cudaHostAlloc(&words, kWordBytes, cudaHostAllocMapped | cudaHostAllocPortable),
              "cudaHostAlloc");
      std::memset(words, 0, kWordBytes);
      words_ = static_cast<uint32_t*>(words);
      clear(bytes);
    } catch (...) {
      free_all();
      throw;
    }
  }
  ~AllocatedRegion() override { free_all(); }
  AllocatedRegion(const AllocatedRegion&) = delete;
  AllocatedRegion& operator=(const AllocatedRegion&) = delete;

  std::byte* data() const override { return static_cast<std::byte*>(data_); }
  uint32_t* host_words() const override { return words_; }
  void clear(int64_t bytes) override {
    require(cudaMemset(data_, 0, static_cast<size_t>(bytes)), "cudaMemset of a region");
    require(cudaDeviceSynchronize(), "zeroing a region");
  }
  std::string ticket() const override {
    cudaIpcMemHandle_t handle{};
    const cudaError_t error = cudaIpcGetMemHandle(&handle, data_);
    if (error == cudaSuccess) return text_of(handle);
    cudaGetLastError();
    return kNoHandle + std::string(cudaGetErrorString(error));  // threads of a process need none
  }
  void drop_ticket() override {}

 private:
  // Errors here would hide the one that ends the rank.
  void free_all() {
    cudaFree(data_);
    if (words_ != nullptr) cudaFreeHost(words_);
  }

  void* data_ = nullptr;
  uint32_t* words_ = nullptr;
};

class OpenedRegion : public PeerRegion {
 public:
  explicit OpenedRegion(const cudaIpcMemHandle_t& handle) {
    require(cudaIpcOpenMemHandle(&data_, handle, cudaIpcMemLazyEnablePeerAccess),
            "cudaIpcOpenMemHandle");
  }
  ~OpenedRegion() override { cudaIpcCloseMemHandle(data_); }
  OpenedRegion(const OpenedRegion&) = delete;
  OpenedRegion& operator=(const OpenedRegion&) = delete;

  std::byte* data() const override { return static_cast<std::byte*>(data_); }
  uint32_t* host_words() const override { return nullptr; }
  void clear(int64_t /*bytes*/) override { throw InternalError("zeroing another rank's region"); }
  std::string ticket() const override { throw InternalError("a ticket of another rank's region"); }
  void drop_ticket() override {}

 private:
  void* data_ = nullptr;
};

int current_device() {
  int device = 0;
  require(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

/// The number of `device` here when the current one can use its memory.
int reachable_device(const std::string& device) {
  int other = 0;
  require(cudaDeviceGetByPCIBusId(&other, device.c_str()),
          "device " + device + " is not visible to this process");
  const int own = current_device();
  if (own == other) return other;
  int can_access = 0;
  require(cudaDeviceCanAccessPeer(&can_access, own, other), "cudaDeviceCanAccessPeer");
  if (can_access == 0)
    throw DeviceError("no peer access from device " + current_peer_device().name + " to device " +
                      device);
  return other;
}

}  // namespace

PeerDevice current_peer_device() {
  const int device = current_device();
  std::array<char, 32> bus{};
  require(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), device),
          "cudaDeviceGetPCIBusId");
  PeerDevice found;
  found.name = bus.data();
  require(cudaDeviceGetAttribute(&found.multiprocessors, cudaDevAttrMultiProcessorCount, device),
          "cudaDeviceGetAttribute");
  return found;
}

std::shared_ptr<PeerRegion> allocate_peer_region(int64_t bytes) {
  return std::make_shared<AllocatedRegion>(bytes);
}

std::shared_ptr<PeerRegion> open_peer_region(const std::string& ticket, const std::string& device,
                                             int64_t /*bytes*/) {
  if (ticket.rfind(kNoHandle, 0) == 0) throw DeviceError(ticket);
  reachable_device(device);
  return std::make_shared<OpenedRegion>(handle_of(ticket));
}

void require_peer_access(const std::string& device) {
  const int other = reachable_device(device);
  if (other == current_device()) return;
  const cudaError_t error = cudaDeviceEnablePeerAccess(other, 0);
  if (error == cudaErrorPeerAccessAlreadyEnabled) {
    cudaGetLastError();
    return;
  }
  require(error, "cudaDeviceEnablePeerAccess to device " + device);
}

}  // namespace phalanx::kernels::cuda
