// Scales all gradients by min(1, max_norm / (norm + 1e-6)), as PyTorch's clip_grad_norm_; norm is the L2 norm over all
// of them. The norm of infinite gradients gives the factor 0, NaN gives NaN.
#include "cuda/device/tensor_chunks.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

using Gradient = ClipGradNormParams::Gradient;
using Table = TensorTable<Gradient>;
constexpr int kWarps = kElementThreads / 32;
constexpr int kNormThreads = 1024;
constexpr int kCount = 4;

// squares [gridDim.x]: a sum per chunk, in double: no rounding, overflow or underflow to think of.
__global__ void __launch_bounds__(kElementThreads) SquaresKernel(const __grid_constant__ Table table, double* squares) {
  const TensorChunk chunk = ChunkOf(table);
  const float* data = table.tensors[chunk.tensor].data;
  const bool aligned = Aligned16(data);
  double sum[1] = {};
#pragma unroll
  for (int step = 0; step < kChunk; step += kCount * kElementThreads) {
    const int64_t i = chunk.begin + step + threadIdx.x * kCount;
    float x[kCount];
    LoadPartial(data + i, chunk.end - i, aligned && i + kCount <= chunk.end, x);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[0] += static_cast<double>(x[k]) * x[k];
  }
  RowGroup<kWarps>::Sum(sum, reinterpret_cast<double*>(SharedMemory()));
  if (threadIdx.x == 0) squares[blockIdx.x] = sum[0];
}

// One block.
__global__ void __launch_bounds__(kNormThreads)
    NormKernel(int64_t chunks, const double* squares, float max_norm, float* norm, float* scale) {
  double total[1] = {};
  for (int64_t chunk = threadIdx.x; chunk < chunks; chunk += kNormThreads) total[0] += squares[chunk];
  RowGroup<kNormThreads / 32>::Sum(total, reinterpret_cast<double*>(SharedMemory()));
  if (threadIdx.x != 0) return;
  const double whole = sqrt(total[0]);  // of finite gradients always finite, though not always in f32
  *norm = static_cast<float>(whole);
  const double factor = max_norm / (whole + 1e-6);
  *scale = factor >= 1 ? 1.0f : static_cast<float>(factor);
}

__global__ void __launch_bounds__(kElementThreads)
    ScaleKernel(const __grid_constant__ Table table, const __grid_constant__ CheckGuard guard, const float* scale) {
  const float factor = *scale;
  if (factor == 1 || Failed(guard)) return;
  const TensorChunk chunk = ChunkOf(table);
  float* data = table.tensors[chunk.tensor].data;
  const bool aligned = Aligned16(data);
#pragma unroll
  for (int step = 0; step < kChunk; step += kCount * kElementThreads) {
    const int64_t i = chunk.begin + step + threadIdx.x * kCount;
    const bool whole = aligned && i + kCount <= chunk.end;
    float x[kCount];
    LoadPartial(data + i, chunk.end - i, whole, x);
#pragma unroll
    for (int k = 0; k < kCount; ++k) x[k] *= factor;
    StorePartial(data + i, chunk.end - i, whole, x);
  }
}

}  // namespace

Status ClipGradNorm(CudaContext& context, const ClipGradNormParams& p) {
  int64_t chunks = 0;
  for (const Gradient& gradient : p.gradients) chunks += CountChunks(gradient.size);
  auto* squares = context.Take<double>(chunks);
  auto* scale = context.Take<float>(1);
  SAS_TRY(ForTables(p.gradients, [&](const Table& table, const Grid& grid, int64_t done) {
    return context.Launch(SquaresKernel, grid, table, squares + done);
  }));
  SAS_TRY(context.Launch(NormKernel, Grid{dim3(1), kNormThreads, kNormThreads / 32 * sizeof(double)}, chunks, squares,
                         p.max_norm, p.norm, scale));
  return ForTables(p.gradients, [&](const Table& table, const Grid& grid, int64_t) {
    return context.Launch(ScaleKernel, grid, table, context.guard(), scale);
  });
}

}  // namespace sas::cuda
