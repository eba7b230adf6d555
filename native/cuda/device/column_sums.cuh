// Sums over the rows of a matrix, for gradients of parameters: partial sums by blocks, then those in order. The order
// depends on the shape and the device only.
#pragma once

#include "cuda/device/elementwise.cuh"

namespace sas::cuda {

// output0 [width], and output1 where gridDim.y is 2, = sums of partials [partitions, gridDim.y, width]. A block has 32
// columns; its warps share the partitions.
template <int kWarps>
__global__ void __launch_bounds__(32 * kWarps)
    SumPartitionsKernel(int64_t partitions, int64_t width, const float* partials, float* output0, float* output1) {
  float* shared = reinterpret_cast<float*>(SharedMemory());  // [kWarps, 32]
  const int lane = LaneId(), warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t column = int64_t{blockIdx.x} * 32 + lane, stride = gridDim.y * width;
  const float* source = partials + blockIdx.y * width + column;
  float sum = 0;
  if (column < width) {
#pragma unroll 4
    for (int64_t partition = warp; partition < partitions; partition += kWarps) sum += source[partition * stride];
  }
  shared[warp * 32 + lane] = sum;
  __syncthreads();
  if (warp == 0 && column < width) {
#pragma unroll
    for (int other = 1; other < kWarps; ++other) sum += shared[other * 32 + lane];
    (blockIdx.y == 0 ? output0 : output1)[column] = sum;
  }
}

inline Status SumPartitions(CudaContext& context, int64_t partitions, int64_t width, const float* partials,
                            float* output0, float* output1 = nullptr) {
  constexpr int kWarps = 8;
  const dim3 blocks(static_cast<unsigned>(CeilDiv(width, 32)), output1 == nullptr ? 1 : 2);
  return context.Launch(SumPartitionsKernel<kWarps>, Grid{blocks, 32 * kWarps, 32 * kWarps * sizeof(float)}, partitions,
                        width, partials, output0, output1);
}

// partials [gridDim.y, width] = sums of x [rows, width] over the rows of each partition. A new sum every 64 rows keeps
// rounding errors from growing with their number.
template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads)
    ColumnSumsKernel(int64_t rows, int64_t width, const T* x, float* partials) {
  const int64_t column = FirstItem() * kCount;
  if (column >= width) return;
  const int64_t end = rows * (blockIdx.y + 1) / gridDim.y;
  float total[kCount] = {};
  for (int64_t row = rows * blockIdx.y / gridDim.y; row < end;) {
    float sum[kCount] = {};
    const int64_t stop = min(row + 64, end);
#pragma unroll 4
    for (; row < stop; ++row) {
      float value[kCount];
      LoadElements(x + row * width + column, value);
#pragma unroll
      for (int k = 0; k < kCount; ++k) sum[k] += value[k];
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) total[k] += sum[k];
  }
  StoreElements(partials + blockIdx.y * width + column, total);
}

// output [width] = sum of the rows of x [rows, width].
template <class T>
Status ColumnSums(CudaContext& context, int64_t rows, int64_t width, const T* x, float* output) {
  constexpr int kCount = 4, kRowsAtLeast = 16, kThreadsPerMultiprocessor = 1024;
  const bool vectorizable = Vectorizable<kCount>(width, x, output);
  const int64_t blocks = CeilDiv(CeilDiv(width, vectorizable ? kCount : 1), kElementThreads);
  const int64_t wanted =
      CeilDiv(context.multiprocessors() * (kThreadsPerMultiprocessor / kElementThreads), std::max<int64_t>(blocks, 1));
  const int64_t partitions = std::clamp<int64_t>(rows / kRowsAtLeast, 1, std::min<int64_t>(wanted, 65535));
  float* partials = partitions == 1 ? output : context.Take<float>(partitions * width);
  const Grid grid{dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(partitions)), kElementThreads};
  SAS_TRY(context.Launch(vectorizable ? ColumnSumsKernel<kCount, T> : ColumnSumsKernel<1, T>, grid, rows, width, x,
                         partials));
  return partitions == 1 ? Status() : SumPartitions(context, partitions, width, partials, output);
}

}  // namespace sas::cuda
