#include "cuda/operations.h"

namespace sas::cuda {

Status Expand(CudaContext&, const ExpandParams&) { return Status(StatusCode::kInternal, "Expand is not written"); }

}  // namespace sas::cuda
