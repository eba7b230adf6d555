// Sums over the rows of a matrix, for gradients of parameters: partial sums by blocks, and by the last block those in
// order. The order depends on the shape and the device only.
#pragma once

#include "cuda/device/elementwise.cuh"
#include "cuda/device/last_block.cuh"

namespace sas::cuda {

// total = the sum of every `step`-th row of `width` elements of x, from `row` to before `end`: sums of kLongestChain
// rows, of which there may be as many.
template <int kCount, class T>
__device__ __forceinline__ void SumRows(const T* x, int64_t row, int64_t end, int64_t step, int64_t width,
                                        float (&total)[kCount]) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) total[k] = 0;
  while (row < end) {
    float sum[kCount] = {};
    const int64_t stop = min(row + kLongestChain * step, end);
#pragma unroll 8
    for (; row < stop; row += step) {
      float value[kCount];
      LoadElements(x + row * width, value);
#pragma unroll
      for (int k = 0; k < kCount; ++k) sum[k] += value[k];
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) total[k] += sum[k];
  }
}

// For warp 0: sum = the block's warps' sums, in order. shared [kElementThreads, kCount].
template <int kCount>
__device__ __forceinline__ void AddWarps(float* shared, float (&sum)[kCount]) {
  StoreElements(shared + threadIdx.x * kCount, sum);
  __syncthreads();
  if (threadIdx.x >= 32) return;
#pragma unroll
  for (int warp = 1; warp < static_cast<int>(kElementThreads / 32); ++warp) {
    float value[kCount];
    LoadElements(shared + (warp * 32 + threadIdx.x) * kCount, value);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] += value[k];
  }
}

// Blocks of a multiprocessor. Named to ptxas as well, which else spills for the sake of one more.
constexpr int kColumnSumsBlocks = 4;

// output [width] = sums of x [rows, width]. A block has 32 * kCount columns of one of gridDim.y partitions of the rows,
// which its warps share; partials [gridDim.y, width], arrived [gridDim.x].
template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads, kColumnSumsBlocks)
    ColumnSumsKernel(int64_t rows, int64_t width, const T* x, float* partials, unsigned* arrived, float* output) {
  constexpr int kWarps = static_cast<int>(kElementThreads / 32);
  float* const shared = reinterpret_cast<float*>(SharedMemory());
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t column = (int64_t{blockIdx.x} * 32 + LaneId()) * kCount;
  const bool present = column < width, stores = present && warp == 0;
  const int64_t begin = rows * blockIdx.y / gridDim.y, end = rows * (blockIdx.y + 1) / gridDim.y;
  float sum[kCount];
  SumRows(x + column, begin + warp, present ? end : 0, kWarps, width, sum);
  AddWarps(shared, sum);
  if (gridDim.y > 1) {
    if (stores) StoreElements(partials + blockIdx.y * width + column, sum);
    if (!LastToArrive(arrived + blockIdx.x, gridDim.y, reinterpret_cast<unsigned*>(shared))) return;
    SumRows(partials + column, warp, present ? gridDim.y : 0, kWarps, width, sum);
    AddWarps(shared, sum);
  }
  if (stores) StoreElements(output + column, sum);
}

// output [width] = sum of the rows of x [rows, width].
template <class T>
Status ColumnSums(CudaContext& context, int64_t rows, int64_t width, const T* x, float* output) {
  constexpr int kCount = 4, kRowsAtLeast = 32, kWarps = kElementThreads / 32;
  constexpr int64_t kMostPartitions = kLongestChain * kWarps;                     // of the last block
  constexpr int64_t kMostRows = int64_t{kLongestChain} * kLongestChain * kWarps;  // of a partition
  const bool vectorizable = Vectorizable<kCount>(width, x, output);
  const int64_t blocks = CeilDiv(width, 32 * (vectorizable ? kCount : 1));
  const int64_t wanted = std::max(CeilDiv(context.multiprocessors() * kColumnSumsBlocks, std::max<int64_t>(blocks, 1)),
                                  CeilDiv(rows, kMostRows));
  const int64_t partitions = blocks > CudaContext::kArrivals
                                 ? 1
                                 : std::clamp<int64_t>(rows / kRowsAtLeast, 1, std::min(wanted, kMostPartitions));
  float* partials = partitions == 1 ? nullptr : context.Take<float>(partitions * width);
  const Grid grid{dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(partitions)), kElementThreads,
                  kElementThreads * (vectorizable ? kCount : 1) * sizeof(float)};
  return context.Launch(vectorizable ? ColumnSumsKernel<kCount, T> : ColumnSumsKernel<1, T>, grid, rows, width, x,
                        partials, context.arrivals(), output);
}

}  // namespace sas::cuda
