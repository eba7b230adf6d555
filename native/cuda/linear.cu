// output = x W^T + b, and its gradients. Weights are rounded to the storage type first, once.
#include "cuda/column_sums.cuh"
#include "cuda/gemm.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

template <class T>
__global__ void RoundKernel(int64_t size, const float* input, T* output) {
  for (int64_t i = FirstItem(); i < size; i += ItemStride()) Narrow(input[i], output + i);
}

// The weight in the storage type: itself if that is f32.
template <class T>
Status RoundWeight(CudaContext& context, int64_t size, const float* weight, const void** rounded) {
  *rounded = weight;
  if constexpr (sizeof(T) == 2) {
    T* copy = context.Take<T>(size);
    *rounded = copy;
    return context.Launch(RoundKernel<T>, ElementGrid(context, size), size, weight, copy);
  }
  return {};
}

}  // namespace

Status Linear(CudaContext& context, const LinearParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) -> Status {
    const void* weight = nullptr;
    SAS_TRY(RoundWeight<T>(context, p.output_width * p.input_width, p.weight, &weight));
    const Product output{.rows = p.rows,
                         .columns = p.output_width,
                         .depth = p.input_width,
                         .dtype = p.dtype,
                         .a = {p.x, p.input_width},
                         .b = {weight, p.input_width, true},
                         .c = {p.output, p.output_width, p.dtype},
                         .column_bias = p.bias};
    return Gemm(context, output);
  });
}

Status LinearBackward(CudaContext& context, const LinearBackwardParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) -> Status {
    const void* weight = nullptr;
    SAS_TRY(RoundWeight<T>(context, p.output_width * p.input_width, p.weight, &weight));
    const Product grad_x{.rows = p.rows,
                         .columns = p.input_width,
                         .depth = p.output_width,
                         .dtype = p.dtype,
                         .a = {p.grad_output, p.output_width},
                         .b = {weight, p.input_width},
                         .c = {p.grad_x, p.input_width, p.dtype}};
    const Product grad_weight{.rows = p.output_width,
                              .columns = p.input_width,
                              .depth = p.rows,
                              .dtype = p.dtype,
                              .a = {p.grad_output, p.output_width, true},
                              .b = {p.x, p.input_width},
                              .c = {p.grad_weight, p.input_width, DType::kF32}};
    SAS_TRY(Gemm(context, grad_x));
    SAS_TRY(Gemm(context, grad_weight));
    if (p.grad_bias == nullptr) return {};
    return ColumnSums(context, static_cast<const T*>(p.grad_output), p.rows, p.output_width, p.grad_bias);
  });
}

}  // namespace sas::cuda
