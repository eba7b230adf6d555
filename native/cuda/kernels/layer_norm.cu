// output = xhat * weight + bias, xhat = (x - mean) * rstd, over each row; the variance is the biased one. Backward,
// with g = gradOutput * weight: gradX = rstd * (g - mean(g) - xhat * mean(g * xhat)); gradWeight and gradBias are the
// sums of gradOutput * xhat and gradOutput over rows.
#include "cuda/kernels/norm.cuh"
#include "cuda/operations.h"

namespace sas::cuda {

Status LayerNorm(CudaContext& context, const LayerNormParams& p) { return norm::Forward<true>(context, p); }

Status LayerNormBackward(CudaContext& context, const LayerNormBackwardParams& p) {
  return norm::Backward<true>(context, p);
}

}  // namespace sas::cuda
