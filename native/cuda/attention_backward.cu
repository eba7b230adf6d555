#include "cuda/operations.h"

namespace sas::cuda {

Status AttentionBackward(CudaContext&, const AttentionBackwardParams&) {
  return Status(StatusCode::kInternal, "AttentionBackward is not written");
}

}  // namespace sas::cuda
