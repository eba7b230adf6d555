// Failed calls of the CUDA runtime as a Status.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "core/status.h"

namespace sas::cuda {

// A failed call as a Status with the name of the CUDA error, kOutOfMemory or kDevice. `what` says which call.
Status ToStatus(cudaError_t error, const char* what);
// The name of the error and what it means.
std::string DescribeError(cudaError_t error);

#define SAS_TRY(expression)                                               \
  do {                                                                    \
    if (::sas::Status status = (expression); !status.ok()) return status; \
  } while (false)
#define SAS_CUDA_TRY(call) SAS_TRY(::sas::cuda::ToStatus(call, #call))

// Makes a device current on this thread, whose own comes back at the end: other libraries have one too.
class CurrentDevice {
 public:
  explicit CurrentDevice(int ordinal) {
    error_ = cudaGetDevice(&before_);
    if (error_ != cudaSuccess || before_ == ordinal) return;
    error_ = cudaSetDevice(ordinal);
    changed_ = error_ == cudaSuccess;
  }
  ~CurrentDevice() {
    if (changed_) static_cast<void>(cudaSetDevice(before_));
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  Status status() const { return ToStatus(error_, "cudaSetDevice"); }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace sas::cuda
