// sums [columns] of a [rows, columns], in f32, in an order that depends on the shape alone.
#pragma once

#include "cuda/elementwise.cuh"

namespace sas::cuda {

// A block sums `rows_per_block` rows of 32 columns: lanes take columns, warps take rows in turn.
constexpr int kColumnSumWarps = 8;
constexpr int64_t kRowsPerColumnSum = 256;

template <class T>
__global__ void ColumnSumsKernel(const T* a, int64_t rows, int64_t columns, int64_t column_blocks, float* sums) {
  float* const shared = reinterpret_cast<float*>(SharedMemory());  // [warps, 32]
  const int lane = LaneId(), warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t chunk = blockIdx.x / column_blocks, column = blockIdx.x % column_blocks * 32 + lane;
  const int64_t end = min(rows, (chunk + 1) * kRowsPerColumnSum);
  float sum = 0;
  if (column < columns) {
    for (int64_t row = chunk * kRowsPerColumnSum + warp; row < end; row += kColumnSumWarps) {
      sum += Widen(a[row * columns + column]);
    }
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (warp == 0 && column < columns) {
    for (int other = 1; other < kColumnSumWarps; ++other) sum += shared[other * 32 + lane];
    sums[chunk * columns + column] = sum;
  }
}

// Chunks of rows, then chunks of those sums, until one is left.
template <class T>
Status ColumnSums(CudaContext& context, const T* a, int64_t rows, int64_t columns, float* sums) {
  const int64_t chunks = CeilDiv(rows, kRowsPerColumnSum), column_blocks = CeilDiv(columns, 32);
  float* target = chunks == 1 ? sums : context.Take<float>(chunks * columns);
  const Grid grid{dim3(static_cast<unsigned>(chunks * column_blocks)), 32 * kColumnSumWarps,
                  32 * kColumnSumWarps * sizeof(float)};
  SAS_TRY(context.Launch(ColumnSumsKernel<T>, grid, a, rows, columns, column_blocks, target));
  return chunks == 1 ? Status() : ColumnSums<float>(context, target, chunks, columns, sums);
}

}  // namespace sas::cuda
