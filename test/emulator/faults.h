// What has gone wrong on the emulated device: the last error of each thread, the one that lost the device, and the
// failures that tests ask for.
//
// After a fault in a kernel the device is lost: until the end of the process every call that needs it returns that
// error, and cudaGetLastError does not clear it. (Reset, for programs that plant several faults.)
//
// Variables, read once per process:
//   SAS_EMULATOR_SEED=1            the order of everything; drawn if absent
//   SAS_EMULATOR_STREAMS=now       work is done when it is given to a stream, as if the host waited after each call
//   SAS_EMULATOR_STREAMS=held      work is done at cudaStreamSynchronize and its kin alone: who only polls waits
//   forever
//   SAS_EMULATOR_FAIL=cudaMallocAsync:3:cudaErrorMemoryAllocation,cudaMallocAsync:1/50:cudaErrorMemoryAllocation
//                                  calls that fail (see FaultPlan); those that fail with an error that loses the device
//                                  lose it
//   SAS_EMULATOR_FAIL=kernel:25:cudaErrorIllegalAddress
//                                  the 25th kernel launched faults when its turn comes
//   SAS_EMULATOR_MEMORY=4294967296 bytes of device memory
//   SAS_EMULATOR_SHARED=101376     bytes of dynamic shared memory that a block can have
//   SAS_EMULATOR_CAPABILITY=7.5    compute capability; 8.0
//   SAS_EMULATOR_MULTIPROCESSORS=132   how many; 3
//   SAS_EMULATOR_POOLS=0           a device without memory pools
//   SAS_EMULATOR_REPORT=file       counts per kernel, written at exit
#pragma once

#include <cstdint>
#include <string>

#include "cuda_runtime.h"

namespace sas::emulator {

// What became of work on a stream.
struct Fault {
  cudaError_t error = cudaSuccess;
  std::string text = {};
  bool ok() const { return error == cudaSuccess; }
};

// Every call of the runtime that needs the device begins with it: counts the call, and returns what it fails with, the
// error that lost the device first.
cudaError_t Begin(const char* function);
// One that needs no device does not see that it is lost.
cudaError_t BeginWithoutDevice(const char* function);
// Counts a kernel: whether it is to fault when it runs.
Fault CountKernel();

// The call fails; remembered for this thread's cudaGetLastError and cudaGetErrorString.
cudaError_t SetFailure(cudaError_t error, std::string text = {});
// The device is lost, if it was not before.
void Lose(const Fault& fault);
// The error that lost it, or cudaSuccess.
cudaError_t Lost();

uint64_t Seed();
uint64_t Setting(const char* name, uint64_t fallback);

// Forgets that the device was lost.
void ForgetLoss();

}  // namespace sas::emulator
