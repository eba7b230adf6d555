// Pinned host memory through which copies pass.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

#include "core/status.h"

namespace sas::cuda {

// Slots that copies take in turn, each free again once the copy that used it last is done: so a copy to the device
// waits only where as many before it are still to be done, and work already queued is not waited for.
class Staging {
 public:
  static constexpr size_t kSlotBytes = size_t{1} << 20;
  struct Slot {
    unsigned char* memory = nullptr;
    cudaEvent_t done = nullptr;  // recorded after the copy
  };

  // The next slot; to be waited for (`done`) before it is used.
  Status Next(Slot** slot);
  // Once nothing uses any slot.
  void Close();

 private:
  Status Open();

  unsigned char* memory_ = nullptr;
  std::array<Slot, 16> slots_;
  size_t next_ = 0;
};

}  // namespace sas::cuda
