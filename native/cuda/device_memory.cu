#include <algorithm>
#include <cstdint>

#include "cuda/device_memory.h"
#include "cuda/failure.h"

namespace sas::cuda {

Status DeviceMemory::Open(int ordinal, cudaStream_t stream) {
  stream_ = stream;
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = ordinal;
  SAS_CUDA_TRY(cudaMemPoolCreate(&pool_, &properties));
  // Freed memory stays in the pool: the next operation takes it again without a call to the driver.
  uint64_t keep = ~uint64_t{0};
  SAS_CUDA_TRY(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep));
  return {};
}

void DeviceMemory::Close() {
  if (pool_ != nullptr) static_cast<void>(cudaMemPoolDestroy(pool_));
  pool_ = nullptr;
}

Status DeviceMemory::Allocate(size_t bytes, void** data) {
  SAS_CUDA_TRY(cudaMallocFromPoolAsync(data, std::max<size_t>(bytes, 1), pool_, stream_));
  return {};
}

void DeviceMemory::Trim(size_t spare) noexcept {
  uint64_t used = 0;
  if (spare > 0 && cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used) != cudaSuccess) return;
  static_cast<void>(cudaMemPoolTrimTo(pool_, used + spare));
}

}  // namespace sas::cuda
