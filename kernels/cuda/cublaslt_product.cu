// Calls cuBLASLt through what dlsym finds; only its types come from the toolkit's header.
#include <dlfcn.h>

#include <vector>

#include <cublasLt.h>

#include "kernels/cuda/cublaslt_product.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

/// What is called, by its own names.
struct Functions {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtGetVersion) version = nullptr;
  decltype(&cublasLtMatmulDescCreate) make_product = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_product = nullptr;
  decltype(&cublasLtMatmulDescDestroy) end_product = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) make_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) end_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) make_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) end_preference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) choose = nullptr;
  decltype(&cublasLtMatmul) multiply = nullptr;
};

void require(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(std::string(call) + " fails with status " +
                    std::to_string(static_cast<int>(status)));
}

/// Descriptors of one product; the library's objects go with it.
struct Product {
  explicit Product(const Functions& of) : functions(of) {}
  ~Product() {
    if (a != nullptr) functions.end_layout(a);
    if (b != nullptr) functions.end_layout(b);
    if (d != nullptr) functions.end_layout(d);
    if (product != nullptr) functions.end_product(product);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  const Functions& functions;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
  cublasLtMatmulHeuristicResult_t chosen{};
};

class LoadedCublasLt final : public CublasLt {
 public:
  LoadedCublasLt(const Functions& functions, cublasLtHandle_t handle)
      : functions_(functions), handle_(handle) {}

  Enqueue product(ProductOf of, int64_t m, int64_t n, int64_t k, void* workspace,
                  int64_t workspace_bytes, const float* scale, std::string* why) override {
    // The library's matrices are column-major: w[n, k] is a k x n one, transposed.
    const cudaDataType_t type = of == ProductOf::kBf16 ? CUDA_R_16BF : CUDA_R_8F_E4M3;
    auto made = std::make_shared<Product>(functions_);
    require(functions_.make_product(&made->product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
            "cublasLtMatmulDescCreate");
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      require(functions_.set_product(made->product, attribute, &value, sizeof(value)),
              "cublasLtMatmulDescSetAttribute");
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    if (of == ProductOf::kFp8) {
      const void* const one = scale;
      set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, one);
      set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, one);
      const int8_t fast = 1;  // sums of fp8 products in the matrix unit, as everyone who is timed
      set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast);
    }
    const auto layout = [&](cublasLtMatrixLayout_t* made_layout, cudaDataType_t of_type,
                            int64_t rows, int64_t cols) {
      require(functions_.make_layout(made_layout, of_type, static_cast<uint64_t>(rows),
                                     static_cast<uint64_t>(cols), rows),
              "cublasLtMatrixLayoutCreate");
    };
    layout(&made->a, type, k, n);
    layout(&made->b, type, k, m);
    layout(&made->d, CUDA_R_16BF, n, m);
    cublasLtMatmulPreference_t preference = nullptr;
    require(functions_.make_preference(&preference), "cublasLtMatmulPreferenceCreate");
    const auto bytes = static_cast<uint64_t>(workspace_bytes);
    functions_.set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                              sizeof(bytes));
    int count = 0;
    const cublasStatus_t status =
        functions_.choose(handle_, made->product, made->a, made->b, made->d, made->d, preference, 1,
                          &made->chosen, &count);
    functions_.end_preference(preference);
    if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
      *why = "cuBLASLt has no product of this shape (status " +
             std::to_string(static_cast<int>(status)) + ")";
      return {};
    }
    return [made, workspace, bytes, handle = handle_](const void* x, const void* w, void* y,
                                                      Stream stream) {
      const float one = 1.0F;
      const float zero = 0.0F;
      require(made->functions.multiply(handle, made->product, &one, w, made->a, x, made->b, &zero,
                                       y, made->d, y, made->d, &made->chosen.algo, workspace, bytes,
                                       stream),
              "cublasLtMatmul");
    };
  }

 private:
  const Functions functions_;
  cublasLtHandle_t handle_;
};

}  // namespace

std::unique_ptr<CublasLt> CublasLt::open(const std::string& library, std::string* what) {
  std::vector<std::string> names = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
  if (!library.empty()) names = {library};
  void* handle = nullptr;
  for (const std::string& name : names) {
    handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    *what = name;
    if (handle != nullptr) break;
  }
  if (handle == nullptr) {
    const char* reason = dlerror();
    *what = "cuBLASLt cannot be loaded: " + std::string(reason != nullptr ? reason : "no reason");
    return nullptr;
  }
  Functions functions;
  std::string absent;
  const auto find = [&]<typename Function>(Function& function, const char* symbol) {
    function = reinterpret_cast<Function>(dlsym(handle, symbol));
    if (function == nullptr) absent = symbol;
  };
  find(functions.create, "cublasLtCreate");
  find(functions.version, "cublasLtGetVersion");
  find(functions.make_product, "cublasLtMatmulDescCreate");
  find(functions.set_product, "cublasLtMatmulDescSetAttribute");
  find(functions.end_product, "cublasLtMatmulDescDestroy");
  find(functions.make_layout, "cublasLtMatrixLayoutCreate");
  find(functions.end_layout, "cublasLtMatrixLayoutDestroy");
  find(functions.make_preference, "cublasLtMatmulPreferenceCreate");
  find(functions.set_preference, "cublasLtMatmulPreferenceSetAttribute");
  find(functions.end_preference, "cublasLtMatmulPreferenceDestroy");
  find(functions.choose, "cublasLtMatmulAlgoGetHeuristic");
  find(functions.multiply, "cublasLtMatmul");
  if (!absent.empty()) {
    *what += " has no " + absent;
    return nullptr;
  }
  cublasLtHandle_t opened = nullptr;
  const cublasStatus_t status = functions.create(&opened);
  if (status != CUBLAS_STATUS_SUCCESS) {
    *what += ": cublasLtCreate fails with status " + std::to_string(static_cast<int>(status));
    return nullptr;
  }
  *what += ", version " + std::to_string(functions.version());
  return std::make_unique<LoadedCublasLt>(functions, opened);  // until the process ends
}

}  // namespace phalanx::kernels::cuda
