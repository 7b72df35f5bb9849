// CudaLimits: passes are recorded and replayed, so that no time between launches counts.
#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include "kernels/cuda/cublaslt_product.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/stream_kernels.h"
#include "kernels/cuda_limits.h"
#include "runtime/base/check.h"

namespace phalanx::kernels {
namespace cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what NVIDIA advises on Hopper

class MeasuredLimits final : public CudaLimits {
 public:
  MeasuredLimits(int device_index, const std::string& library)
      : device_(Device::open(device_index)),
        cublaslt_(CublasLt::open(library, &product_library_)),
        sink_(device_->allocate(256)) {}

  double read_gbs(int64_t bytes, int passes) override {
    const std::byte* data = memory(0, bytes);
    const double seconds = seconds_of([&] {
      for (int i = 0; i < passes; ++i)
        launch(read_stream<uint4>, shape(bytes / 16), device_->stream(),
               reinterpret_cast<const uint4*>(data), bytes / 16,
               reinterpret_cast<uint32_t*>(sink_.get()));
    });
    return static_cast<double>(bytes) * passes / seconds * 1e-9;
  }

  double copy_gbs(int64_t bytes, int passes) override {
    const std::byte* from = memory(0, bytes);
    std::byte* to = memory(1, bytes);
    const double seconds = seconds_of([&] {
      for (int i = 0; i < passes; ++i)
        launch(copy_stream<uint4>, shape(bytes / 16), device_->stream(),
               reinterpret_cast<const uint4*>(from), reinterpret_cast<uint4*>(to), bytes / 16);
    });
    return 2.0 * static_cast<double>(bytes) * passes / seconds * 1e-9;
  }

  std::optional<double> product_seconds(ProductOf of, int64_t m, int64_t n, int64_t k,
                                        int64_t footprint_bytes, int passes) override {
    if (cublaslt_ == nullptr) return std::nullopt;
    if (workspace_ == nullptr) {
      workspace_ = device_->allocate(kWorkspaceBytes);
      one_ = device_->allocate(256);
      auto host = device_->allocate_host(4);
      *reinterpret_cast<float*>(host.get()) = 1.0F;
      device_->copy_to_device(one_.get(), host.get(), 4);
      device_->synchronize();
    }
    std::string why;
    const CublasLt::Enqueue enqueue =
        cublaslt_->product(of, m, n, k, workspace_.get(), kWorkspaceBytes,
                           reinterpret_cast<const float*>(one_.get()), &why);
    if (!enqueue) return std::nullopt;
    const int64_t element = of == ProductOf::kBf16 ? 2 : 1;
    const int64_t matrix = n * k * element;
    const int64_t copies = std::max<int64_t>(1, (footprint_bytes + matrix - 1) / matrix);
    const std::byte* w = memory(0, copies * matrix);
    const std::byte* x = memory(1, m * k * element);
    std::byte* y = memory(2, m * n * 2);
    const double seconds = seconds_of([&] {
      for (int i = 0; i < passes; ++i) enqueue(x, w + i % copies * matrix, y, device_->stream());
    });
    return seconds / passes;
  }

  std::string product_library() const override { return product_library_; }

 private:
  /// Random memory, kept from call to call where it is large enough.
  std::byte* memory(size_t place, int64_t bytes) {
    auto& [owner, size] = memory_[place];
    if (size < bytes) {
      owner.reset();
      size = (bytes + 255) / 256 * 256;
      owner = device_->allocate(size);
      launch(fill_random<uint32_t>, {dim3(num_blocks()), dim3(kStreamThreads)}, device_->stream(),
             reinterpret_cast<uint32_t*>(owner.get()), size / 4, static_cast<uint32_t>(place));
      device_->synchronize();
    }
    return owner.get();
  }

  unsigned num_blocks() const {
    return static_cast<unsigned>(4 * device_->info().num_multiprocessors);
  }
  LaunchShape shape(int64_t num_units) const {
    const int64_t most =
        (num_units + kStreamThreads * kStreamLoads - 1) / (int64_t{kStreamThreads} * kStreamLoads);
    return {dim3(static_cast<unsigned>(std::min<int64_t>(num_blocks(), most))),
            dim3(kStreamThreads)};
  }

  /// Once to warm up, once timed.
  double seconds_of(const std::function<void()>& enqueue) {
    const auto recording = device_->record(enqueue);
    device_->replay(*recording);
    device_->synchronize();
    const auto begin = std::chrono::steady_clock::now();
    device_->replay(*recording);
    device_->synchronize();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  std::unique_ptr<Device> device_;
  std::string product_library_;
  std::unique_ptr<CublasLt> cublaslt_;
  std::shared_ptr<std::byte> sink_, workspace_, one_;
  std::pair<std::shared_ptr<std::byte>, int64_t> memory_[3] = {};
};

}  // namespace
}  // namespace cuda

std::unique_ptr<CudaLimits> make_cuda_limits(int device_index, const std::string& cublaslt) {
  return std::make_unique<cuda::MeasuredLimits>(device_index, cublaslt);
}

}  // namespace phalanx::kernels
