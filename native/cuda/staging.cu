#include "cuda/failure.h"
#include "cuda/staging.h"

namespace sas::cuda {

Status Staging::Open() {
  if (memory_ == nullptr) {
    void* memory = nullptr;
    SAS_CUDA_TRY(cudaMallocHost(&memory, slots_.size() * kSlotBytes));
    memory_ = static_cast<unsigned char*>(memory);
  }
  for (size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].memory = memory_ + i * kSlotBytes;
    if (slots_[i].done == nullptr) SAS_CUDA_TRY(cudaEventCreateWithFlags(&slots_[i].done, cudaEventDisableTiming));
  }
  return {};
}

Status Staging::Next(Slot** slot) {
  if (slots_.back().done == nullptr) SAS_TRY(Open());
  *slot = &slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  return {};
}

void Staging::Close() {
  for (Slot& slot : slots_) {
    if (slot.done != nullptr) static_cast<void>(cudaEventDestroy(slot.done));
  }
  if (memory_ != nullptr) static_cast<void>(cudaFreeHost(memory_));
  slots_ = {};
  memory_ = nullptr;
}

}  // namespace sas::cuda
