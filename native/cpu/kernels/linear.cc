// output = x W^T + b, and its gradients.
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {

Status Linear(CpuContext& context, const LinearParams& p) {
  const Matrix x{p.x, p.dtype, p.input_width, 1};
  const Matrix weight_transposed{p.weight, DType::kF32, 1, p.input_width};
  return Gemm(context, p.rows, p.output_width, p.input_width, x, weight_transposed, p.bias, p.output, p.dtype);
}

Status LinearBackward(CpuContext& context, const LinearBackwardParams& p) {
  const Matrix grad_output{p.grad_output, p.dtype, p.output_width, 1};
  const Matrix weight{p.weight, DType::kF32, p.input_width, 1};
  Status status = Gemm(context, p.rows, p.input_width, p.output_width, grad_output, weight, nullptr, p.grad_x, p.dtype);
  if (!status.ok()) return status;
  return WeightGradient(context, p.output_width, p.input_width, p.rows, p.grad_output, p.x, p.dtype, p.grad_weight,
                        p.grad_bias);
}

}  // namespace sas::cpu::SAS_ISA
