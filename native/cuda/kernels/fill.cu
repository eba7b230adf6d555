// output = value.
#include "core/convert.h"
#include "cuda/device/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kElementThreads) FillKernel(int64_t size, T value, T* output) {
  for (int64_t i = FirstItem(); i < size; i += ItemStride()) output[i] = value;
}

}  // namespace

Status Fill(CudaContext& context, const FillParams& p) {
  const Grid grid = ElementGrid(context, p.size);
  if (p.dtype == DType::kI32) {
    return context.Launch(FillKernel<int32_t>, grid, p.size, static_cast<int32_t>(p.value),
                          static_cast<int32_t*>(p.output));
  }
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    T value;
    FromFloat(static_cast<float>(p.value), &value);
    return context.Launch(FillKernel<T>, grid, p.size, value, static_cast<T*>(p.output));
  });
}

}  // namespace sas::cuda
