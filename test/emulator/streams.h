// Streams of the emulated device. Work that is given to a stream is queued, and done later: at a random point of some
// later call, drawn from the seed, or when a wait asks for it. Whoever makes that call does the work, one piece at a
// time in the whole process, with no lock held. Streams advance in random order, as far as the events they wait for
// allow.
#pragma once

#include <functional>

#include "cuda_runtime.h"
#include "faults.h"
#include "memory.h"

namespace sas::emulator {

// Pinned memory that queued work will read or write.
struct HostUse {
  Range range = {};
  bool writes = false;
};

using Work = std::function<Fault()>;

// Whether the handle is that of a stream; null is the default stream.
bool IsStream(cudaStream_t stream);

// What the host memory that `work` writes holds becomes undefined at once. If `work` comes to a fault, the device is
// lost.
cudaError_t Enqueue(cudaStream_t stream, Work work, HostUse host = {});
// Waits until the stream has come to its present end.
cudaError_t Finish(cudaStream_t stream);

// For programs that plant faults and see them found: drops all queued work, device memory and pools, and the device is
// no longer lost. Streams and events stay, as if everything on them were done.
void Reset();

}  // namespace sas::emulator
