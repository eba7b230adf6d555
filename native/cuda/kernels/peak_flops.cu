// The tensor cores' rate on registers alone.
#include "cuda/device/mma.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

constexpr int kChains = 8;  // independent accumulators per warp, to hide the latency of a product
constexpr int kThreads = 256;
constexpr double kFlopsPerProduct = 2.0 * 16 * 8 * 16;

__global__ void __launch_bounds__(kThreads) PeakKernel(int rounds, float* sink) {
  FragmentA<BFloat16> a;
  FragmentB<BFloat16> b;
  for (int i = 0; i < 4; ++i) a.r[i] = threadIdx.x + i;
  for (int i = 0; i < 2; ++i) b.r[i] = threadIdx.x + i;
  Accumulator sums[kChains] = {};
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain) Multiply(sums[chain], a, b);
  }
  float total = 0;
#pragma unroll
  for (int chain = 0; chain < kChains; ++chain) total += sums[chain].c[0];
  if (threadIdx.x == 0) sink[blockIdx.x] = total;  // the results are used
}

}  // namespace

double PeakFlops(CudaContext& context, double seconds) {
  const unsigned blocks = static_cast<unsigned>(2 * context.multiprocessors());
  float* sink = context.Take<float>(blocks);
  cudaEvent_t start = nullptr, stop = nullptr;
  double rate = 0;
  if (cudaEventCreate(&start) == cudaSuccess && cudaEventCreate(&stop) == cudaSuccess) {
    // A short run gives the rate at which the long one should last `seconds`.
    int rounds = 8;
    for (int run = 0; run < 3; ++run) {
      float milliseconds = 0;
      if (cudaEventRecord(start, context.stream()) != cudaSuccess) break;
      if (!context.Launch(PeakKernel, {dim3(blocks), kThreads}, rounds, sink).ok()) break;
      if (cudaEventRecord(stop, context.stream()) != cudaSuccess) break;
      if (!context.Await(stop).ok()) break;
      if (cudaEventElapsedTime(&milliseconds, start, stop) != cudaSuccess) break;
      const double elapsed = milliseconds > 1e-3f ? milliseconds / 1e3 : 1e-6;
      rate = kFlopsPerProduct * kChains * rounds * blocks * (kThreads / 32) / elapsed;
      const double wanted = rounds * seconds / elapsed;
      rounds = wanted < 1e7 ? static_cast<int>(wanted) + 1 : 10'000'000;
    }
  }
  if (start != nullptr) static_cast<void>(cudaEventDestroy(start));
  if (stop != nullptr) static_cast<void>(cudaEventDestroy(stop));
  return rate;
}

}  // namespace sas::cuda
