#include "cuda/operations.h"

namespace sas::cuda {

Status NaiveAttention(CudaContext&, const AttentionParams&) {
  return Status(StatusCode::kInternal, "NaiveAttention is not written");
}
Status NaiveAttentionBackward(CudaContext&, const AttentionBackwardParams&) {
  return Status(StatusCode::kInternal, "NaiveAttentionBackward is not written");
}

}  // namespace sas::cuda
