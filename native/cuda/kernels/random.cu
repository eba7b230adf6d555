// Counter-based random numbers, see core/random.h.
#include "core/random.h"
#include "cuda/device/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// Every thread makes kCount elements, a multiple of two, from pairs that begin at even places as on the CPU.
template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads) RandomKernel(RandomParams p) {
  T* output = static_cast<T*>(p.output);
  for (int64_t i = FirstItem() * kCount; i < p.size; i += ItemStride() * kCount) {
    float values[kCount];
#pragma unroll
    for (int k = 0; k < kCount; k += 2) {
      const RandomValues pair = RandomPair(p.distribution, p.seed, p.stream, static_cast<uint64_t>((i + k) / 2));
      values[k] = static_cast<float>(pair.value[0] * p.scale);
      values[k + 1] = static_cast<float>(pair.value[1] * p.scale);
    }
    if (i + kCount <= p.size) {
      StoreElements(output + i, values);
    } else {
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        if (i + k < p.size) Narrow(values[k], output + i + k);
      }
    }
  }
}

}  // namespace

Status Random(CudaContext& context, const RandomParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    constexpr int kCount = 4;
    return context.Launch(RandomKernel<kCount, T>, ElementGrid(context, CeilDiv(p.size, kCount)), p);
  });
}

}  // namespace sas::cuda
