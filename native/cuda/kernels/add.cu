// output = a + b, or a + b + c, rounded once.
#include "cuda/device/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads)
    AddThreeKernel(int64_t vectors, const T* a, const T* b, const T* c, T* output) {
  for (int64_t i = FirstItem() * kCount; i < vectors * kCount; i += ItemStride() * kCount) {
    float sum[kCount], x[kCount], y[kCount];
    LoadElements(a + i, sum);
    LoadElements(b + i, x);
    LoadElements(c + i, y);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] = (sum[k] + x[k]) + y[k];
    StoreElements(output + i, sum);
  }
}

template <class T>
Status AddThree(CudaContext& context, int64_t size, const T* a, const T* b, const T* c, T* output) {
  constexpr int kCount = kVector<T>;
  if (Vectorizable<kCount>(size, a, b, c, output)) {
    const int64_t vectors = size / kCount;
    return context.Launch(AddThreeKernel<kCount, T>, ElementGrid(context, vectors), vectors, a, b, c, output);
  }
  return context.Launch(AddThreeKernel<1, T>, ElementGrid(context, size), size, a, b, c, output);
}

}  // namespace

Status Add(CudaContext& context, const AddParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    if (p.c != nullptr) {
      return AddThree(context, p.size, static_cast<const T*>(p.a), static_cast<const T*>(p.b),
                      static_cast<const T*>(p.c), static_cast<T*>(p.output));
    }
    return Map(context, p.size, Sum{}, static_cast<T*>(p.output), static_cast<const T*>(p.a),
               static_cast<const T*>(p.b));
  });
}

}  // namespace sas::cuda
