// What a GPU allows, measured: streams of reads and copies, and matrix products by cuBLASLt where
// its library is found. Called by llm-bench cuda, beside whose rows they stand. CMake chooses who
// answers, as for cuda_backend.h.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace phalanx::kernels {

/// What a product multiplies; sums are f32.
enum class ProductOf : uint8_t { kBf16, kFp8 };

/// One thread. Errors: DeviceError.
class CudaLimits {
 public:
  virtual ~CudaLimits() = default;

  /// GB/s of a kernel that reads `bytes` of the device's memory, `passes` times in a row.
  virtual double read_gbs(int64_t bytes, int passes) = 0;
  /// The same of a copy of `bytes`, counting what is read and what is written.
  virtual double copy_gbs(int64_t bytes, int passes) = 0;

  /// Seconds of y[m, n] = x[m, k] w[n, k]^T, bf16 out, on random numbers, mean of `passes`, each on
  /// the next of so many copies of w that they fill `footprint_bytes`. Empty where there is no
  /// cuBLASLt or it refuses the shape.
  virtual std::optional<double> product_seconds(ProductOf of, int64_t m, int64_t n, int64_t k,
                                                int64_t footprint_bytes, int passes) = 0;
  /// "libcublasLt.so.13, version 130000", or why there is none.
  virtual std::string product_library() const = 0;
};

/// Takes the device for this process. cublaslt: the library's file; empty: by its usual names.
std::unique_ptr<CudaLimits> make_cuda_limits(int device_index, const std::string& cublaslt);

}  // namespace phalanx::kernels
