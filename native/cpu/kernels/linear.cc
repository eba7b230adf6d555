// output = x W^T + b, and its gradients.
#include "cpu/kernels/elementwise.h"
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
  const Matrix grad_output_transposed{p.grad_output, p.dtype, 1, p.output_width};
  const Matrix weight{p.weight, DType::kF32, p.input_width, 1};
  const Matrix x{p.x, p.dtype, p.input_width, 1};
  Status status = Gemm(context, p.rows, p.input_width, p.output_width, grad_output, weight, nullptr, p.grad_x, p.dtype);
  if (!status.ok()) return status;
  status = Gemm(context, p.output_width, p.input_width, p.rows, grad_output_transposed, x, nullptr, p.grad_weight,
                DType::kF32);
  if (!status.ok() || p.grad_bias == nullptr) return status;

  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t width = p.output_width;
    SumRows<1>(context, p.rows, width, {p.grad_bias}, [&](int64_t row, float* sums, int64_t) {
      const T* grad = static_cast<const T*>(p.grad_output) + row * width;
      ForEachVector(width,
                    [&](int64_t i, int64_t count) { Store(sums + i, Load(sums + i) + LoadPartial(grad + i, count)); });
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
