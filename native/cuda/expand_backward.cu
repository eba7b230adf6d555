#include "cuda/operations.h"

namespace sas::cuda {

Status ExpandBackward(CudaContext&, const ExpandBackwardParams&) { return Status(StatusCode::kInternal, "ExpandBackward is not written"); }

}  // namespace sas::cuda
