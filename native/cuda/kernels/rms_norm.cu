// output = xhat * weight, xhat = x * rstd, rstd = 1 / sqrt(mean(x^2) + eps), over each row. Backward, with g =
// gradOutput * weight: gradX = rstd * (g - xhat * mean(g * xhat)); gradWeight is the sum of gradOutput * xhat over
// rows.
#include "cuda/kernels/norm.cuh"
#include "cuda/operations.h"

namespace sas::cuda {

Status RmsNorm(CudaContext& context, const RmsNormParams& p) {
  return norm::Forward<false>(context, {.dtype = p.dtype,
                                        .rows = p.rows,
                                        .width = p.width,
                                        .eps = p.eps,
                                        .x = p.x,
                                        .weight = p.weight,
                                        .bias = nullptr,
                                        .output = p.output,
                                        .mean = nullptr,
                                        .rstd = p.rstd});
}

Status RmsNormBackward(CudaContext& context, const RmsNormBackwardParams& p) {
  return norm::Backward<false>(context, {.dtype = p.dtype,
                                         .rows = p.rows,
                                         .width = p.width,
                                         .grad_output = p.grad_output,
                                         .x = p.x,
                                         .weight = p.weight,
                                         .mean = nullptr,
                                         .rstd = p.rstd,
                                         .grad_x = p.grad_x,
                                         .grad_weight = p.grad_weight,
                                         .grad_bias = nullptr,
                                         .residual = nullptr});
}

}  // namespace sas::cuda
