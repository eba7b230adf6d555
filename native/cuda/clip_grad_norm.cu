#include "cuda/operations.h"

namespace sas::cuda {

Status ClipGradNorm(CudaContext&, const ClipGradNormParams&) {
  return Status(StatusCode::kInternal, "ClipGradNorm is not written");
}

}  // namespace sas::cuda
