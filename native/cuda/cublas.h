// cuBLAS, if this machine has it: found at run time, never linked. Without it the kernel of gemm.cu does all products.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <mutex>
#include <string>

#include "core/status.h"

namespace sas::cuda {

class CudaContext;
struct Product;

// The handles of one context, created with it: creating them takes long. A library that does not start, or has no
// memory for a product, leaves products to the built-in kernels.
class Blas {
 public:
  Blas();
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  // Loads the library, once per process.
  void Open(cudaStream_t stream, bool tf32);
  void Close();
  // Which library serves products, for DeviceInfo.blas, and what has kept it from doing so. Any thread.
  std::string Describe() const;

  // Queues the product. *done is false where there is no library, or it does not take this product.
  Status Multiply(CudaContext& context, const Product& product, bool* done);

 private:
  struct Plan;
  struct Plans;

  Status CreateHandles();
  void Note(std::string fault);
  Status MakePlan(const Product& product, Plan* plan) const;
  Status MultiplyBatches(const Product& product);
  Status MultiplyWithBias(CudaContext& context, const Product& product, bool* done);

  cudaStream_t stream_ = nullptr;
  bool tf32_ = false;
  void* handle_ = nullptr;        // cublasHandle_t
  void* light_handle_ = nullptr;  // cublasLtHandle_t; null: products are not the library's
  std::unique_ptr<Plans> plans_;
  mutable std::mutex mutex_;
  std::string fault_;  // guarded by mutex_
};

}  // namespace sas::cuda
