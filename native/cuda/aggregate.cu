// Parameter-efficient attention aggregation: the mean over groups of simulated heads (arXiv 2507.07694, section on
// PEAA).
#include "cuda/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// A thread has kCount features of the short tensor, [tokens, width], and the same features of every group of the long
// one, [tokens, groups, width].
template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads)
    AggregateKernel(int64_t tokens, int64_t groups, int64_t width, const T* input, T* output) {
  const float share = 1.0f / static_cast<float>(groups);
  for (int64_t i = FirstItem() * kCount; i < tokens * width; i += ItemStride() * kCount) {
    const int64_t token = i / width;
    const T* source = input + token * (groups - 1) * width + i;
    float sum[kCount];
    LoadElements(source, sum);
#pragma unroll 4
    for (int64_t group = 1; group < groups; ++group) {
      float x[kCount];
      LoadElements(source + group * width, x);
#pragma unroll
      for (int k = 0; k < kCount; ++k) sum[k] += x[k];
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] *= share;
    StoreElements(output + i, sum);
  }
}

template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads)
    AggregateBackwardKernel(int64_t tokens, int64_t groups, int64_t width, const T* input, T* output) {
  const float share = 1.0f / static_cast<float>(groups);
  for (int64_t i = FirstItem() * kCount; i < tokens * width; i += ItemStride() * kCount) {
    const int64_t token = i / width;
    T* target = output + token * (groups - 1) * width + i;
    float x[kCount];
    LoadElements(input + i, x);
#pragma unroll
    for (int k = 0; k < kCount; ++k) x[k] *= share;
#pragma unroll 4
    for (int64_t group = 0; group < groups; ++group) StoreElements(target + group * width, x);
  }
}

template <bool kBackward, class T>
Status Run(CudaContext& context, const AggregateParams& p) {
  const int64_t groups = p.sim_heads / p.heads, width = p.heads * p.head_dim;
  const auto* input = static_cast<const T*>(p.input);
  auto* output = static_cast<T*>(p.output);
  const auto launch = [&]<int kCount>(std::integral_constant<int, kCount>) {
    return context.Launch(kBackward ? AggregateBackwardKernel<kCount, T> : AggregateKernel<kCount, T>,
                          ElementGrid(context, p.tokens * width / kCount), p.tokens, groups, width, input, output);
  };
  return Vectorizable<kVector<T>>(width, input, output) ? launch(std::integral_constant<int, kVector<T>>{})
                                                        : launch(std::integral_constant<int, 1>{});
}

}  // namespace

Status Aggregate(CudaContext& context, const AggregateParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) { return Run<false, T>(context, p); });
}

Status AggregateBackward(CudaContext& context, const AggregateParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) { return Run<true, T>(context, p); });
}

}  // namespace sas::cuda
