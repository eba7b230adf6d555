// Device memory in stream order, from a pool of its own: the device's default pool stays as other libraries in the
// process have it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "core/status.h"

namespace sas::cuda {

class DeviceMemory {
 public:
  // Memory is allocated and freed in the order of `stream`.
  Status Open(int ordinal, cudaStream_t stream);
  // Once nothing uses any memory.
  void Close();

  // kOutOfMemory where there is none. As Free, from any thread whose current device is this one.
  Status Allocate(size_t bytes, void** data);
  void Free(void* data) noexcept { static_cast<void>(cudaFreeAsync(data, stream_)); }
  // Gives what has been freed, and the stream is done with, back to the system, but for `spare` bytes.
  void Trim(size_t spare = 0) noexcept;

 private:
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
};

}  // namespace sas::cuda
