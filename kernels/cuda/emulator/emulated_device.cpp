// Device on the emulated device: host memory, and a stream that runs when it is waited for.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "kernels/cuda/device.h"
#include "kernels/cuda/emulator/device.h"
#include "kernels/cuda/emulator/stream.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

/// As many as the ranks of a test's host, unless PHALANX_EMULATED_DEVICES says otherwise; few
/// multiprocessors, so that small grids are split as large ones are on a GPU.
constexpr int kNumDevices = 16;
constexpr int kNumMultiprocessors = 4;
constexpr int64_t kTotalBytes = int64_t{4} << 30;
constexpr size_t kAlignment = 256;

struct EmulatedRecording final : Recording {
  explicit EmulatedRecording(EmulatedStream::Recording recorded) : work(std::move(recorded)) {}
  EmulatedStream::Recording work;
};

std::shared_ptr<std::byte> zeroed(int64_t bytes) {
  const size_t size = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
  auto* memory =
      static_cast<std::byte*>(std::aligned_alloc(kAlignment, std::max(size, kAlignment)));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, size);
  return {memory, [](std::byte* owned) { std::free(owned); }};
}

int num_devices() {
  const char* asked = std::getenv("PHALANX_EMULATED_DEVICES");
  return asked != nullptr ? std::atoi(asked) : kNumDevices;
}

DeviceInfo describe(int index) {
  DeviceInfo info;
  info.index = index;
  info.name = "emulated";
  info.uuid = "emulated-" + std::to_string(index);
  info.compute_major = 8;
  info.num_multiprocessors = kNumMultiprocessors;
  info.shared_bytes_of_block = static_cast<int64_t>(emulator::device_options().max_shared_bytes);
  info.total_bytes = info.free_bytes = kTotalBytes;
  return info;
}

}  // namespace

std::vector<DeviceInfo> find_devices(std::string* why_none) {
  std::vector<DeviceInfo> devices;
  for (int index = 0; index < num_devices(); ++index) devices.push_back(describe(index));
  if (devices.empty() && why_none != nullptr) *why_none = "PHALANX_EMULATED_DEVICES is 0";
  return devices;
}

struct Device::State {
  DeviceInfo info;
  EmulatedStream stream;
  std::function<void()> on_mark;
  uint64_t fences[2] = {};  // work of the stream before them
};

Device::Device(std::unique_ptr<State> state) : state_(std::move(state)) {}
Device::~Device() = default;

std::unique_ptr<Device> Device::open(int index) {
  PHALANX_CHECK(index >= 0 && index < num_devices(), "emulated device " + std::to_string(index));
  auto state = std::make_unique<State>();
  state->info = describe(index);
  return std::unique_ptr<Device>(new Device(std::move(state)));
}

const DeviceInfo& Device::info() const { return state_->info; }
Stream Device::stream() const { return &state_->stream; }

std::shared_ptr<std::byte> Device::allocate(int64_t bytes) { return zeroed(bytes); }
std::shared_ptr<std::byte> Device::allocate_host(int64_t bytes) { return zeroed(bytes); }

void Device::copy_to_device(void* device, const void* host, int64_t bytes) {
  if (bytes == 0) return;
  state_->stream.add([=] { std::memcpy(device, host, static_cast<size_t>(bytes)); });
}

void Device::copy_to_host(void* host, const void* device, int64_t bytes) {
  copy_to_device(host, device, bytes);
}

void Device::mark() {
  state_->stream.add([state = state_.get()] {
    if (state->on_mark) state->on_mark();
  });
}

void Device::synchronize(const std::function<void()>& on_mark,
                         const std::function<void()>& on_wait) {
  state_->on_mark = on_mark;
  state_->stream.synchronize(on_wait);
}

void Device::set_fence(int index) {
  state_->fences[index] = state_->stream.num_done() + state_->stream.num_queued();
}

/// The device goes on by a piece of work each time that the host looks.
bool Device::has_passed(int index) const {
  if (state_->stream.num_done() < state_->fences[index]) state_->stream.run(1);
  return state_->stream.num_done() >= state_->fences[index];
}

void Device::wait_for(int index) {
  if (!has_passed(index)) state_->stream.run(state_->fences[index] - state_->stream.num_done());
}

std::unique_ptr<Recording> Device::record(const std::function<void()>& enqueue) {
  state_->stream.begin_recording();
  try {
    enqueue();
  } catch (...) {
    state_->stream.end_recording();
    throw;
  }
  return std::make_unique<EmulatedRecording>(state_->stream.end_recording());
}

void Device::replay(const Recording& recording) {
  for (const auto& work : dynamic_cast<const EmulatedRecording&>(recording).work)
    state_->stream.add(work);
}

}  // namespace phalanx::kernels::cuda
