// output = x W^T + b, and its gradients. Weights are rounded to the storage type first, once.
#include "cuda/device/column_sums.cuh"
#include "cuda/kernels/gemm.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
Status Linear(CudaContext& context, const LinearParams& p) {
  const void* weight = nullptr;
  SAS_TRY(RoundParameter(context, p.dtype, p.output_width * p.input_width, p.weight, &weight));
  return Gemm(context, {.rows = p.rows,
                        .columns = p.output_width,
                        .depth = p.input_width,
                        .dtype = p.dtype,
                        .a = {p.x, p.input_width},
                        .b = {weight, p.input_width, true},
                        .c = {p.output, p.output_width, p.dtype},
                        .column_bias = p.bias});
}

Status LinearBackward(CudaContext& context, const LinearBackwardParams& p) {
  const void* weight = nullptr;
  SAS_TRY(RoundParameter(context, p.dtype, p.output_width * p.input_width, p.weight, &weight));
  SAS_TRY(Gemm(context, {.rows = p.rows,
                         .columns = p.input_width,
                         .depth = p.output_width,
                         .dtype = p.dtype,
                         .a = {p.grad_output, p.output_width},
                         .b = {weight, p.input_width},
                         .c = {p.grad_x, p.input_width, p.dtype}}));
  SAS_TRY(Gemm(context, {.rows = p.output_width,
                         .columns = p.input_width,
                         .depth = p.rows,
                         .dtype = p.dtype,
                         .a = {p.grad_output, p.output_width, true},
                         .b = {p.x, p.input_width},
                         .c = {p.grad_weight, p.input_width, DType::kF32}}));
  if (p.grad_bias == nullptr) return {};
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    return ColumnSums(context, p.rows, p.output_width, static_cast<const T*>(p.grad_output), p.grad_bias);
  });
}

}  // namespace sas::cuda
