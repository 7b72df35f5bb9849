// Device on CUDA.
#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include <cuda_runtime.h>

#include "kernels/cuda/device.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

using std::chrono::microseconds;
using std::chrono::steady_clock;

/// A step's results come within milliseconds: until then the thread spins.
constexpr microseconds kSpin{3000};
constexpr microseconds kSleep{50};
/// Looks at the stream, of which each takes about a microsecond or a sleep, to one call of on_wait.
constexpr int kLooksPerWait = 16;

void require(cudaError_t error, const std::string& call, int device) {
  if (error == cudaSuccess) return;
  throw DeviceError("CUDA device " + std::to_string(device) + ": " + call + ": " +
                    cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

DeviceInfo describe(int index) {
  cudaDeviceProp properties{};
  require(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties", index);
  DeviceInfo info;
  info.index = index;
  info.name = properties.name;
  for (const char byte : properties.uuid.bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    info.uuid += kDigits[static_cast<unsigned char>(byte) >> 4];
    info.uuid += kDigits[static_cast<unsigned char>(byte) & 15];
  }
  char bus_id[32] = {};
  require(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), index), "cudaDeviceGetPCIBusId", index);
  info.pci_bus_id = bus_id;  // as in /sys/bus/pci, but for the case
  std::transform(
      info.pci_bus_id.begin(), info.pci_bus_id.end(), info.pci_bus_id.begin(),
      [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c; });
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.num_multiprocessors = properties.multiProcessorCount;
  info.shared_bytes_of_block = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  info.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  return info;
}

bool has_event_passed(cudaEvent_t event, int device) {
  const cudaError_t state = cudaEventQuery(event);
  if (state != cudaErrorNotReady) require(state, "the step's kernels", device);
  return state == cudaSuccess;
}

void wait_for_event(cudaEvent_t event, int device, const std::function<void()>& on_wait = {}) {
  const auto started = steady_clock::now();
  for (int64_t num_looks = 1; !has_event_passed(event, device); ++num_looks) {
    if (on_wait && num_looks % kLooksPerWait == 0) on_wait();
    if (steady_clock::now() - started > kSpin) std::this_thread::sleep_for(kSleep);
  }
}

struct CudaRecording final : Recording {
  explicit CudaRecording(cudaGraphExec_t executable) : graph(executable) {}
  ~CudaRecording() override { cudaGraphExecDestroy(graph); }
  cudaGraphExec_t graph;
};

}  // namespace

std::vector<DeviceInfo> find_devices(std::string* why_none) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    if (why_none != nullptr)
      *why_none = error == cudaSuccess ? "no CUDA device" : cudaGetErrorString(error);
    (void)cudaGetLastError();
    return {};
  }
  std::vector<DeviceInfo> devices;
  for (int index = 0; index < count; ++index) devices.push_back(describe(index));
  return devices;
}

struct Device::State {
  DeviceInfo info;
  cudaStream_t stream = nullptr;
  std::vector<cudaEvent_t> marks;  // the first num_marks of them are in the stream
  int num_marks = 0;
  cudaEvent_t fences[2] = {};
  bool is_recording = false;

  ~State() {
    for (cudaEvent_t mark : marks) cudaEventDestroy(mark);
    for (cudaEvent_t fence : fences) {
      if (fence != nullptr) cudaEventDestroy(fence);
    }
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
};

Device::Device(std::unique_ptr<State> state) : state_(std::move(state)) {}
Device::~Device() = default;

std::unique_ptr<Device> Device::open(int index) {
  auto state = std::make_unique<State>();
  require(cudaSetDevice(index), "cudaSetDevice", index);
  state->info = describe(index);
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  require(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo", index);
  state->info.free_bytes = static_cast<int64_t>(free_bytes);
  require(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking), "cudaStreamCreate",
          index);
  for (int i = 0; i <= kMaxMarks; ++i) {
    cudaEvent_t mark = nullptr;
    require(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), "cudaEventCreate", index);
    state->marks.push_back(mark);
  }
  for (cudaEvent_t& fence : state->fences)
    require(cudaEventCreateWithFlags(&fence, cudaEventDisableTiming), "cudaEventCreate", index);
  return std::unique_ptr<Device>(new Device(std::move(state)));
}

const DeviceInfo& Device::info() const { return state_->info; }
Stream Device::stream() const { return state_->stream; }

std::shared_ptr<std::byte> Device::allocate(int64_t bytes) {
  void* memory = nullptr;
  const int index = state_->info.index;
  const std::string what = std::to_string(bytes) + " bytes";
  require(cudaMalloc(&memory, static_cast<size_t>(bytes)), "cudaMalloc of " + what, index);
  std::shared_ptr<std::byte> owner(static_cast<std::byte*>(memory),
                                   [](std::byte* owned) { cudaFree(owned); });
  require(cudaMemset(memory, 0, static_cast<size_t>(bytes)), "cudaMemset of " + what, index);
  require(cudaDeviceSynchronize(), "cudaMemset of " + what, index);
  return owner;
}

std::shared_ptr<std::byte> Device::allocate_host(int64_t bytes) {
  void* memory = nullptr;
  require(cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocDefault),
          "cudaHostAlloc of " + std::to_string(bytes) + " bytes", state_->info.index);
  std::shared_ptr<std::byte> owner(static_cast<std::byte*>(memory),
                                   [](std::byte* owned) { cudaFreeHost(owned); });
  std::fill_n(owner.get(), bytes, std::byte{0});
  return owner;
}

void Device::copy_to_device(void* device, const void* host, int64_t bytes) {
  if (bytes == 0) return;
  require(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                          state_->stream),
          "cudaMemcpyAsync to the device", state_->info.index);
}

void Device::copy_to_host(void* host, const void* device, int64_t bytes) {
  if (bytes == 0) return;
  require(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost,
                          state_->stream),
          "cudaMemcpyAsync to the host", state_->info.index);
}

void Device::mark() {
  if (state_->num_marks == kMaxMarks || state_->is_recording) return;
  require(cudaEventRecord(state_->marks[static_cast<size_t>(state_->num_marks)], state_->stream),
          "cudaEventRecord", state_->info.index);
  ++state_->num_marks;
}

void Device::synchronize(const std::function<void()>& on_mark,
                         const std::function<void()>& on_wait) {
  const int index = state_->info.index;
  const auto last = static_cast<size_t>(state_->num_marks);
  state_->num_marks = 0;
  require(cudaEventRecord(state_->marks[last], state_->stream), "cudaEventRecord", index);
  for (size_t i = 0; i <= last; ++i) {
    wait_for_event(state_->marks[i], index, on_wait);
    if (i < last && on_mark) on_mark();
  }
}

void Device::set_fence(int index) {
  require(cudaEventRecord(state_->fences[index], state_->stream), "cudaEventRecord",
          state_->info.index);
}

bool Device::has_passed(int index) const {
  return has_event_passed(state_->fences[index], state_->info.index);
}

void Device::wait_for(int index) { wait_for_event(state_->fences[index], state_->info.index); }

std::unique_ptr<Recording> Device::record(const std::function<void()>& enqueue) {
  const int index = state_->info.index;
  require(cudaStreamBeginCapture(state_->stream, cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture", index);
  cudaGraph_t graph = nullptr;
  state_->is_recording = true;
  try {
    enqueue();
  } catch (...) {
    state_->is_recording = false;
    cudaStreamEndCapture(state_->stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  state_->is_recording = false;
  require(cudaStreamEndCapture(state_->stream, &graph), "cudaStreamEndCapture", index);
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  require(error, "cudaGraphInstantiate", index);
  return std::make_unique<CudaRecording>(executable);
}

void Device::replay(const Recording& recording) {
  require(cudaGraphLaunch(dynamic_cast<const CudaRecording&>(recording).graph, state_->stream),
          "cudaGraphLaunch", state_->info.index);
}

}  // namespace phalanx::kernels::cuda
