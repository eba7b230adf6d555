// What the memory-bound kernels share: grids over elements and rows, vector accesses, reductions. All of them move each
// byte once and are limited by bandwidth.
#pragma once

#include <algorithm>

#include "cuda/context.h"
#include "cuda/mma.cuh"

namespace sas::cuda {

constexpr unsigned kElementThreads = 256;
constexpr unsigned kFullWarp = 0xffffffffu;

// A grid of enough threads to keep the device busy; kernels loop over what is left (grid-stride).
inline Grid ElementGrid(const CudaContext& context, int64_t items) {
  constexpr int kBlocksPerMultiprocessor = 8;
  const int64_t most = int64_t{kBlocksPerMultiprocessor} * context.multiprocessors();
  return {dim3(static_cast<unsigned>(std::min(CeilDiv(items, kElementThreads), most))), kElementThreads};
}

// The running thread's first item and the distance to its next.
__device__ __forceinline__ int64_t FirstItem() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t ItemStride() { return int64_t{gridDim.x} * blockDim.x; }

}  // namespace sas::cuda
