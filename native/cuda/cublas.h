// cuBLAS, if this machine has it: found at run time, never linked.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "core/status.h"

namespace sas::cuda {

class Blas {
 public:
  // Which library serves products, for DeviceInfo.blas.
  static std::string Describe() { return "built-in"; }
  Status Open(cudaStream_t, bool) { return {}; }
  void Close() {}
};

}  // namespace sas::cuda
