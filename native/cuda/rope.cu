#include "cuda/operations.h"

namespace sas::cuda {

Status Rope(CudaContext&, const RopeParams&) { return Status(StatusCode::kInternal, "Rope is not written"); }

}  // namespace sas::cuda
