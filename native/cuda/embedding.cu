#include "cuda/operations.h"

namespace sas::cuda {

Status Embedding(CudaContext&, const EmbeddingParams&) {
  return Status(StatusCode::kInternal, "Embedding is not written");
}
Status EmbeddingBackward(CudaContext&, const EmbeddingBackwardParams&) {
  return Status(StatusCode::kInternal, "EmbeddingBackward is not written");
}

}  // namespace sas::cuda
