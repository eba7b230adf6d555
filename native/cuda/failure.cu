#include <cstring>

#include "cuda/failure.h"

namespace sas::cuda {

std::string DescribeError(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + " (" + cudaGetErrorString(error) + ")";
}

Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  static_cast<void>(cudaGetLastError());                  // clears the error unless the device is lost
  const std::string call(what, std::strcspn(what, "("));  // without its arguments
  const std::string message = call + " failed: " + DescribeError(error);
  return Status(error == cudaErrorMemoryAllocation ? StatusCode::kOutOfMemory : StatusCode::kDevice, message);
}

}  // namespace sas::cuda
