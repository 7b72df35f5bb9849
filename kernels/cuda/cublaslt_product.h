// Products of cuBLASLt, whose library is loaded when it is wanted: nothing links it. Called by
// cuda_limits. CMake chooses the real one or, for the emulated device, cublaslt_product_none.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "kernels/cuda/launch.h"
#include "kernels/cuda_limits.h"

namespace phalanx::kernels::cuda {

class CublasLt {
 public:
  /// Null, and why, when the library cannot be loaded. On success `what` names it.
  static std::unique_ptr<CublasLt> open(const std::string& library, std::string* what);
  virtual ~CublasLt() = default;

  /// y[m, n] = x[m, k] w[n, k]^T, bf16 out, row-major; enqueues one product on the w given.
  using Enqueue = std::function<void(const void* x, const void* w, void* y, Stream stream)>;
  /// The library's first choice for the shape, with `workspace_bytes` at `workspace`. `scale`: a
  /// float of 1 in device memory. Empty, and why, when it has none.
  virtual Enqueue product(ProductOf of, int64_t m, int64_t n, int64_t k, void* workspace,
                          int64_t workspace_bytes, const float* scale, std::string* why) = 0;
};

}  // namespace phalanx::kernels::cuda
