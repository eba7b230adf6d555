#include "cuda/operations.h"

namespace sas::cuda {

Status Cast(CudaContext&, const CastParams&) { return Status(StatusCode::kInternal, "Cast is not written"); }

}  // namespace sas::cuda
