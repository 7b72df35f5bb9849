// The emulated device has no cuBLASLt.
#include "kernels/cuda/cublaslt_product.h"

namespace phalanx::kernels::cuda {

std::unique_ptr<CublasLt> CublasLt::open(const std::string& /*library*/, std::string* what) {
  *what = "the emulated device has no cuBLASLt";
  return nullptr;
}

}  // namespace phalanx::kernels::cuda
