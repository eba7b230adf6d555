#include "cuda/operations.h"

namespace sas::cuda {

Status Linear(CudaContext&, const LinearParams&) { return Status(StatusCode::kInternal, "Linear is not written"); }
Status LinearBackward(CudaContext&, const LinearBackwardParams&) {
  return Status(StatusCode::kInternal, "LinearBackward is not written");
}

}  // namespace sas::cuda
