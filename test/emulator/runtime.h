// The emulated device's limits, errors and counters, shared by the runtime API and the machine that runs kernels.
#pragma once

#include <cstdint>
#include <string>

#include "cuda_runtime.h"

namespace sas::emulator {

// Remembered for cudaGetErrorString.
cudaError_t SetFailure(cudaError_t error, std::string message);
// What is wrong with a launch, or nothing.
std::string CheckLaunch(const cudaLaunchConfig_t& config, const void* kernel);
// SAS_EMULATOR_SEED, else drawn once per process.
uint64_t Seed();
KernelCounts& CountsOf(const void* kernel);

}  // namespace sas::emulator
