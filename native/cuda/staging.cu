#include "cuda/failure.h"
#include "cuda/staging.h"

namespace sas::cuda {

namespace {

// Pinned memory for all slots, and an event for each; may be called again where it failed.
template <class Slots>
Status OpenSlots(Slots& slots, size_t slot_bytes, unsigned char** memory) {
  if (*memory == nullptr) {
    void* pinned = nullptr;
    SAS_CUDA_TRY(cudaMallocHost(&pinned, slots.size() * slot_bytes));
    *memory = static_cast<unsigned char*>(pinned);
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    slots[i].memory = *memory + i * slot_bytes;
    if (slots[i].done == nullptr) SAS_CUDA_TRY(cudaEventCreateWithFlags(&slots[i].done, cudaEventDisableTiming));
  }
  return {};
}

template <class Slots>
void CloseSlots(Slots& slots, unsigned char** memory) {
  for (StagingSlot& slot : slots) {
    if (slot.done != nullptr) static_cast<void>(cudaEventDestroy(slot.done));
  }
  if (*memory != nullptr) static_cast<void>(cudaFreeHost(*memory));
  slots = {};
  *memory = nullptr;
}

}  // namespace

Status Staging::Next(StagingSlot** slot) {
  if (slots_.back().done == nullptr) SAS_TRY(OpenSlots(slots_, kSlotBytes, &memory_));
  *slot = &slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  return {};
}

void Staging::Close() { CloseSlots(slots_, &memory_); }

Status ReadSlots::Take(StagingSlot** slot) {
  if (slots_.back().done == nullptr) {
    SAS_TRY(OpenSlots(slots_, kSlotBytes, &memory_));
    for (StagingSlot& each : slots_) free_.push_back(&each);
  }
  *slot = nullptr;
  if (free_.empty()) return {};
  *slot = free_.back();
  free_.pop_back();
  return {};
}

void ReadSlots::Close() {
  free_.clear();
  CloseSlots(slots_, &memory_);
}

}  // namespace sas::cuda
