#include "cuda/operations.h"

namespace sas::cuda {

Status Random(CudaContext&, const RandomParams&) { return Status(StatusCode::kInternal, "Random is not written"); }

}  // namespace sas::cuda
