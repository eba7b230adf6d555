// The emulated device's limits of launches and its counters, for the machine that runs kernels.
#pragma once

#include <cstdint>
#include <string>

#include "cuda_runtime.h"

namespace sas::emulator {

// What is wrong with a launch, or nothing.
std::string CheckLaunch(const cudaLaunchConfig_t& config, const void* kernel);
KernelCounts& CountsOf(const void* kernel);

}  // namespace sas::emulator
