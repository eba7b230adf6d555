// cuBLAS, if this machine has it: found at run time, never linked. Without it the kernel of gemm.cu does all products.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "core/status.h"

namespace sas::cuda {

class CudaContext;
struct Product;

// The handles of one context. They are created with the first product: creating them takes long.
class Blas {
 public:
  // Which library serves products, for DeviceInfo.blas. Loads the library, once per process, and creates no handles.
  static std::string Describe();

  Status Open(cudaStream_t stream, bool tf32) {
    stream_ = stream;
    tf32_ = tf32;
    return {};
  }
  void Close();

  // Queues the product. *done is false where there is no library, or it does not take this product.
  Status Multiply(CudaContext& context, const Product& product, bool* done);

 private:
  Status Prepare();
  Status MultiplyBatches(const Product& product);
  Status MultiplyWithBias(CudaContext& context, const Product& product, bool* done);

  cudaStream_t stream_ = nullptr;
  bool tf32_ = false;
  void* handle_ = nullptr;        // cublasHandle_t
  void* light_handle_ = nullptr;  // cublasLtHandle_t
};

}  // namespace sas::cuda
