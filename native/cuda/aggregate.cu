#include "cuda/operations.h"

namespace sas::cuda {

Status Aggregate(CudaContext&, const AggregateParams&) {
  return Status(StatusCode::kInternal, "Aggregate is not written");
}
Status AggregateBackward(CudaContext&, const AggregateParams&) {
  return Status(StatusCode::kInternal, "AggregateBackward is not written");
}

}  // namespace sas::cuda
