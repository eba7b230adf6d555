// Parameter-efficient attention aggregation: the mean over groups of simulated heads (arXiv 2507.07694, section on
// PEAA).
#include <type_traits>

#include "cuda/device/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// A warp per token: `input` is [tokens, groups, width], `output` [tokens, width]; backward the other way round.
template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads)
    AggregateKernel(int64_t tokens, int64_t groups, int64_t width, const T* input, T* output) {
  const float share = 1.0f / static_cast<float>(groups);
  for (int64_t token = FirstItem() / 32; token < tokens; token += ItemStride() / 32) {
    const T* source = input + token * groups * width;
#pragma unroll 1
    for (int64_t column = LaneId() * kCount; column < width; column += 32 * kCount) {
      float sum[kCount];
      LoadElements(source + column, sum);
#pragma unroll 4
      for (int64_t group = 1; group < groups; ++group) {
        float x[kCount];
        LoadElements(source + group * width + column, x);
#pragma unroll
        for (int k = 0; k < kCount; ++k) sum[k] += x[k];
      }
#pragma unroll
      for (int k = 0; k < kCount; ++k) sum[k] *= share;
      StoreElements(output + token * width + column, sum);
    }
  }
}

template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads)
    AggregateBackwardKernel(int64_t tokens, int64_t groups, int64_t width, const T* input, T* output) {
  const float share = 1.0f / static_cast<float>(groups);
  for (int64_t token = FirstItem() / 32; token < tokens; token += ItemStride() / 32) {
    T* target = output + token * groups * width;
#pragma unroll 1
    for (int64_t column = LaneId() * kCount; column < width; column += 32 * kCount) {
      float x[kCount];
      LoadElements(input + token * width + column, x);
#pragma unroll
      for (int k = 0; k < kCount; ++k) x[k] *= share;
#pragma unroll 4
      for (int64_t group = 0; group < groups; ++group) StoreElements(target + group * width + column, x);
    }
  }
}

template <bool kBackward, class T>
Status Run(CudaContext& context, const AggregateParams& p) {
  const int64_t groups = p.sim_heads / p.heads, width = p.heads * p.head_dim;
  const auto* input = static_cast<const T*>(p.input);
  auto* output = static_cast<T*>(p.output);
  const auto launch = [&]<int kCount>(std::integral_constant<int, kCount>) {
    return context.Launch(kBackward ? AggregateBackwardKernel<kCount, T> : AggregateKernel<kCount, T>,
                          ElementGrid(context, p.tokens * 32), p.tokens, groups, width, input, output);
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
