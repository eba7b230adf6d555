// Copies, pinned memory of the host, and what both make of misuse.
#include <memory>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "faults.h"
#include "memory.h"
#include "streams.h"

namespace sas::emulator {
namespace {

// Whether work whose turn has come may touch these bytes.
Fault Check(Allocations& memory, const void* address, size_t bytes, const char* what) {
  std::string why;
  if (memory.Usable(address, bytes, &why)) return {};
  return {cudaErrorIllegalAddress, std::string(what) + " " + why};
}
Fault CheckDevice(const void* address, size_t bytes, const char* what) {
  return Check(DeviceMemory(), address, bytes, what);
}

Range RangeOf(const void* data, size_t bytes) {
  const auto* begin = static_cast<const unsigned char*>(data);
  return {begin, begin + bytes};
}

cudaError_t NotDeviceMemory() { return SetFailure(cudaErrorInvalidValue, "not an address in device memory"); }

// From pinned memory as it is when the copy's turn comes; other memory is read at the call.
cudaError_t CopyToDevice(void* target, const void* source, size_t bytes, cudaStream_t stream) {
  if (!DeviceMemory().Knows(target)) return NotDeviceMemory();
  const auto write = [=](const void* from) {
    Fault fault = CheckDevice(target, bytes, "a copy to device memory");
    if (fault.ok()) memcpy(target, from, bytes);
    return fault;
  };
  if (PinnedMemory().Knows(source)) {
    const auto copy = [=] {
      Fault fault = Check(PinnedMemory(), source, bytes, "a copy from pinned memory");
      return fault.ok() ? write(source) : fault;
    };
    return Enqueue(stream, copy, {RangeOf(source, bytes), false});
  }
  const auto* begin = static_cast<const unsigned char*>(source);
  const auto staged = std::make_shared<std::vector<unsigned char>>(begin, begin + bytes);
  return Enqueue(stream, [=] { return write(staged->data()); });
}

// Into pinned memory when the copy's turn comes; into other memory before the call returns.
cudaError_t CopyToHost(void* target, const void* source, size_t bytes, cudaStream_t stream) {
  if (!DeviceMemory().Knows(source)) return NotDeviceMemory();
  const bool pinned = PinnedMemory().Knows(target);
  if (std::string why; pinned && !PinnedMemory().Usable(target, bytes, &why)) {
    return SetFailure(cudaErrorInvalidValue, "a copy to pinned memory " + why);
  }
  const auto copy = [=] {
    Fault fault = CheckDevice(source, bytes, "a copy from device memory");
    if (fault.ok() && pinned) fault = Check(PinnedMemory(), target, bytes, "a copy to pinned memory");
    if (fault.ok()) memcpy(target, source, bytes);
    return fault;
  };
  if (pinned) return Enqueue(stream, copy, {RangeOf(target, bytes), true});
  const cudaError_t error = Enqueue(stream, copy);
  return error == cudaSuccess ? Finish(stream) : error;
}

cudaError_t CopyOnDevice(void* target, const void* source, size_t bytes, cudaStream_t stream) {
  if (!DeviceMemory().Knows(target) || !DeviceMemory().Knows(source)) return NotDeviceMemory();
  return Enqueue(stream, [=] {
    Fault fault = CheckDevice(source, bytes, "a copy from device memory");
    if (fault.ok()) fault = CheckDevice(target, bytes, "a copy to device memory");
    if (fault.ok()) memmove(target, source, bytes);
    return fault;
  });
}

cudaError_t AllocatePinned(void** data, size_t bytes) {
  *data = PinnedMemory().Add(bytes);
  if (*data == nullptr) return SetFailure(cudaErrorMemoryAllocation, "no pinned memory");
  PinnedMemory().Open(*data);
  return cudaSuccess;
}

}  // namespace
}  // namespace sas::emulator

using namespace sas::emulator;

#define SAS_BEGIN() \
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error

cudaError_t cudaMallocHost(void** data, size_t bytes) {
  SAS_BEGIN();
  return AllocatePinned(data, bytes);
}
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  SAS_BEGIN();
  return AllocatePinned(data, bytes);
}
// Queued copies that use it fail when their turn comes.
cudaError_t cudaFreeHost(void* data) {
  SAS_BEGIN();
  if (data == nullptr) return cudaSuccess;
  if (PinnedMemory().Find(data).begin != data) {
    return SetFailure(cudaErrorInvalidValue, "freeing pinned memory that is not allocated");
  }
  PinnedMemory().Close(data);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  SAS_BEGIN();
  if (bytes == 0) return cudaSuccess;
  switch (kind) {
    case cudaMemcpyHostToDevice:
      return CopyToDevice(target, source, bytes, stream);
    case cudaMemcpyDeviceToHost:
      return CopyToHost(target, source, bytes, stream);
    case cudaMemcpyDeviceToDevice:
      return CopyOnDevice(target, source, bytes, stream);
  }
  return SetFailure(cudaErrorInvalidValue, "a kind of copy that is not emulated");
}

cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  SAS_BEGIN();
  if (bytes == 0) return cudaSuccess;
  if (!DeviceMemory().Knows(target)) return NotDeviceMemory();
  return Enqueue(stream, [=] {
    Fault fault = CheckDevice(target, bytes, "cudaMemsetAsync of device memory");
    if (fault.ok()) memset(target, value, bytes);
    return fault;
  });
}
