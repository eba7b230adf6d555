// Features of two tensors side by side. A tensor with one head stands beside each head of the other; its gradient is
// the sum over them.
#include <type_traits>

#include "cuda/device/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// A thread has kCount columns of kHeads heads of a token.
constexpr int kHeads = 4;

template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads) ConcatKernel(ConcatParams p) {
  const ConcatShape& s = p.shape;
  const int64_t width = s.width_a + s.width_b, parts = width / kCount, groups = CeilDiv(s.heads, kHeads);
  for (int64_t item = FirstItem(); item < s.tokens * groups * parts; item += ItemStride()) {
    const int64_t column = item % parts * kCount, token = item / parts / groups;
    const int64_t first_head = item / parts % groups * kHeads;
    const int heads = static_cast<int>(min(int64_t{kHeads}, s.heads - first_head));
    const bool from_a = column < s.width_a;
    const int64_t source_heads = from_a ? s.heads_a : s.heads_b, source_width = from_a ? s.width_a : s.width_b;
    const int64_t step = source_heads == 1 ? 0 : source_width;
    const T* source = static_cast<const T*>(from_a ? p.a : p.b) + token * source_heads * source_width +
                      first_head * step + (from_a ? column : column - s.width_a);
    T* output = static_cast<T*>(p.output) + (token * s.heads + first_head) * width + column;

    float values[kHeads][kCount];
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      if (head < heads) LoadElements(source + head * step, values[head]);
    }
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      if (head < heads) StoreElements(output + head * width, values[head]);
    }
  }
}

// target [rows, width] = for each row the sum over `count` rows of source, which are `stride` apart.
template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads)
    SumHeadsKernel(int64_t rows, int64_t width, int64_t count, int64_t stride, const T* source, T* target) {
  const int64_t parts = width / kCount;
  for (int64_t item = FirstItem(); item < rows * parts; item += ItemStride()) {
    const int64_t row = item / parts, column = item % parts * kCount;
    const T* heads = source + row * count * stride + column;
    float sum[kCount];
    LoadElements(heads, sum);
#pragma unroll 4
    for (int64_t head = 1; head < count; ++head) {
      float x[kCount];
      LoadElements(heads + head * stride, x);
#pragma unroll
      for (int k = 0; k < kCount; ++k) sum[k] += x[k];
    }
    StoreElements(target + row * width + column, sum);
  }
}

template <class T>
Status SumHeads(CudaContext& context, int64_t rows, int64_t width, int64_t count, int64_t stride, const T* source,
                void* target) {
  auto* sums = static_cast<T*>(target);
  const auto launch = [&]<int kCount>(std::integral_constant<int, kCount>) {
    return context.Launch(SumHeadsKernel<kCount, T>, ElementGrid(context, rows * (width / kCount)), rows, width, count,
                          stride, source, sums);
  };
  const bool vectorizable = Vectorizable<kVector<T>>(width, source, sums) && stride % kVector<T> == 0;
  return vectorizable ? launch(std::integral_constant<int, kVector<T>>{}) : launch(std::integral_constant<int, 1>{});
}

}  // namespace

Status Concat(CudaContext& context, const ConcatParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const ConcatShape& s = p.shape;
    const auto launch = [&]<int kCount>(std::integral_constant<int, kCount>) {
      const int64_t items = s.tokens * CeilDiv(s.heads, kHeads) * ((s.width_a + s.width_b) / kCount);
      return context.Launch(ConcatKernel<kCount, T>, ElementGrid(context, items), p);
    };
    const bool vectorizable =
        Vectorizable<kVector<T>>(s.width_a, static_cast<const T*>(p.a), static_cast<T*>(p.output)) &&
        Vectorizable<kVector<T>>(s.width_b, static_cast<const T*>(p.b));
    return vectorizable ? launch(std::integral_constant<int, kVector<T>>{}) : launch(std::integral_constant<int, 1>{});
  });
}

Status ConcatBackward(CudaContext& context, const ConcatBackwardParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const ConcatShape& s = p.shape;
    const auto* grad_output = static_cast<const T*>(p.grad_output);
    const int64_t stride = s.width_a + s.width_b;
    SAS_TRY(SumHeads(context, s.tokens * s.heads_a, s.width_a, s.heads / s.heads_a, stride, grad_output, p.grad_a));
    return SumHeads(context, s.tokens * s.heads_b, s.width_b, s.heads / s.heads_b, stride, grad_output + s.width_a,
                    p.grad_b);
  });
}

}  // namespace sas::cuda
