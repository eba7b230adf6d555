#include "cuda/operations.h"

namespace sas::cuda {

Status NaiveExpand(CudaContext&, const ExpandParams&) {
  return Status(StatusCode::kInternal, "NaiveExpand is not written");
}
Status NaiveExpandBackward(CudaContext&, const ExpandBackwardParams&) {
  return Status(StatusCode::kInternal, "NaiveExpandBackward is not written");
}

}  // namespace sas::cuda
