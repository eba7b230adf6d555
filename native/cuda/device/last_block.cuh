// Sums over blocks in the launch that makes their terms: the last block to arrive adds what all have left in device
// memory, in an order of its own. Which block that is depends on timing, what it computes does not.
#pragma once

#include "cuda/context.h"

namespace sas::cuda {

// Whether the running block is the last of `count` that arrive at *arrived, which is 0 before and after. The last one
// sees what the others have written. By all threads of the block; `flag` is in shared memory.
__device__ __forceinline__ bool LastToArrive(unsigned* arrived, unsigned count, unsigned* flag) {
  __threadfence();  // what this thread has written is seen before the block's arrival
  __syncthreads();
  if (threadIdx.x == 0) *flag = atomicInc(arrived, count - 1);
  __syncthreads();
  const bool last = *flag == count - 1;
  __syncthreads();  // before `flag` is written again
  if (last) __threadfence();
  return last;
}

}  // namespace sas::cuda
