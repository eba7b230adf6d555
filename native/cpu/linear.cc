// output = x W^T + b, and its gradients.
#include "cpu/elementwise.h"
#include "cpu/gemm.h"
#include "cpu/operations.h"

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

  // Column sums: each thread has its columns and adds the rows in order, in runs of 64 so that rounding stays small.
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const T* grad = static_cast<const T*>(p.grad_output);
    ParallelChunks(context, p.output_width, 4 * kLanes, [&](int64_t begin, int64_t end) {
      ForEachVector(end - begin, [&](int64_t offset, int64_t count) {
        Vec total{};
        for (int64_t start = 0; start < p.rows; start += 64) {
          Vec run{};
          for (int64_t row = start; row < Min(start + 64, p.rows); ++row) {
            run += LoadPartial(grad + row * p.output_width + begin + offset, count);
          }
          total += run;
        }
        StorePartial(p.grad_bias + begin + offset, total, count);
      });
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
