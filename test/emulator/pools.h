// Memory pools of the emulated device: what they hold against the device's memory, in stream order.
#pragma once

#include <cstddef>

namespace sas::emulator {

size_t MemoryLimit();  // of the device, in bytes
bool PoolsSupported();
// What a synchronisation does: every pool gives back what it holds beyond its release threshold.
void ReleaseBeyondThresholds();
// Forgets all allocations and pools.
void ResetPools();

}  // namespace sas::emulator
