// What the machine asks of the access checks.
#pragma once

#include "emulator.h"

namespace sas::emulator {

// Before a launch: allocations may have changed.
void ForgetAllocations();
// Counts the 16-byte accesses that a warp's lanes have made since the last call.
void FoldAccesses(const std::array<Thread*, kWarp>& lanes);

}  // namespace sas::emulator
