// Pinned host memory through which copies pass.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <vector>

#include "core/status.h"

namespace sas::cuda {

struct StagingSlot {
  unsigned char* memory = nullptr;
  cudaEvent_t done = nullptr;  // recorded after the copy
};

// Slots that copies take in turn, each free again once the copy that used it last is done: so a copy to the device
// waits only where as many before it are still to be done, and work already queued is not waited for.
class Staging {
 public:
  static constexpr size_t kSlotBytes = size_t{1} << 20;

  // The next slot; to be waited for (`done`) before it is used.
  Status Next(StagingSlot** slot);
  // Once nothing uses any slot.
  void Close();

 private:
  unsigned char* memory_ = nullptr;
  std::array<StagingSlot, 16> slots_;
  size_t next_ = 0;
};

// Slots of copies to the host that nobody waits for: each its reader's until that one gives it back.
class ReadSlots {
 public:
  static constexpr size_t kSlotBytes = size_t{64} << 10;

  // Null where all are taken.
  Status Take(StagingSlot** slot);
  // Once the copy is done.
  void GiveBack(StagingSlot* slot) { free_.push_back(slot); }
  // Once nothing uses any slot.
  void Close();

 private:
  std::array<StagingSlot, 8> slots_;
  std::vector<StagingSlot*> free_;
  unsigned char* memory_ = nullptr;
};

}  // namespace sas::cuda
