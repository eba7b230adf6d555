// The part of the CUDA runtime and of CUDA C++ that native/cuda uses, for a host compiler: the kernels' own source runs
// on the CPU, threads as fibers (see emulator.h). Test only. Calls have the meaning, the checks and the error codes of
// the real ones, and streams are as late (see streams.h); what fails on request: faults.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulator.h"

// ---- language

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
// __shared__ is left undefined on purpose: kernels use dynamic shared memory only (SharedMemory() in ptx.cuh).

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// threadIdx and its kin: objects whose members read the running thread's state.
namespace sas::emulator {
template <const Index3& (*kIndex)(), unsigned Index3::*kMember>
struct IndexMember {
  operator unsigned() const { return kIndex().*kMember; }
};
template <const Index3& (*kIndex)()>
struct IndexVariable {
  IndexMember<kIndex, &Index3::x> x;
  IndexMember<kIndex, &Index3::y> y;
  IndexMember<kIndex, &Index3::z> z;
};
inline const Index3& ThreadIndex() { return Current().thread; }
inline const Index3& BlockIndex() { return Current().block->index; }
inline const Index3& BlockSize() { return Current().block->size; }
inline const Index3& GridSize() { return Current().block->grid; }
}  // namespace sas::emulator
inline constexpr sas::emulator::IndexVariable<sas::emulator::ThreadIndex> threadIdx{};
inline constexpr sas::emulator::IndexVariable<sas::emulator::BlockIndex> blockIdx{};
inline constexpr sas::emulator::IndexVariable<sas::emulator::BlockSize> blockDim{};
inline constexpr sas::emulator::IndexVariable<sas::emulator::GridSize> gridDim{};

inline void __syncthreads() { ::sas::emulator::SyncBlock(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { ::sas::emulator::SyncWarp(mask); }
template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return ::sas::emulator::Shuffle("__shfl_sync", mask, value, source & 31);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return ::sas::emulator::Shuffle("__shfl_xor_sync", mask, value, ::sas::emulator::Current().lane ^ lanes);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes) {
  const int lane = ::sas::emulator::Current().lane, source = lane + static_cast<int>(lanes);
  return ::sas::emulator::Shuffle("__shfl_down_sync", mask, value, source < 32 ? source : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes) {
  const int lane = ::sas::emulator::Current().lane, source = lane - static_cast<int>(lanes);
  return ::sas::emulator::Shuffle("__shfl_up_sync", mask, value, source >= 0 ? source : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return ::sas::emulator::Ballot(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffffu; }

// Nothing comes between: blocks run one after another, fibers change at collectives only.
inline unsigned long long atomicMin(unsigned long long* address, unsigned long long value) {
  const unsigned long long old = *address;
  *address = std::min(old, value);
  return old;
}
inline unsigned atomicInc(unsigned* address, unsigned most) {
  const unsigned old = *address;
  *address = old >= most ? 0 : old + 1;
  return old;
}
inline void __threadfence() {}

using std::max;
using std::min;
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline void sincospi(double x, double* sine, double* cosine) {
  const double reduced = x - 2 * std::rint(x / 2);
  *sine = std::sin(3.14159265358979323846 * reduced);
  *cosine = std::cos(3.14159265358979323846 * reduced);
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float normcdff(float x) {
  return static_cast<float>(0.5 * std::erfc(-static_cast<double>(x) * 0.70710678118654752));
}

// ---- runtime

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorDevicesUnavailable = 46,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorECCUncorrectable = 214,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorLaunchTimeout = 702,
  cudaErrorAssert = 710,
  cudaErrorMisalignedAddress = 716,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
  cudaErrorSystemDriverMismatch = 803,
  cudaErrorUnknown = 999,
};
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* ordinal);
cudaError_t cudaSetDevice(int ordinal);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor;
};
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int ordinal);
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrMemoryPoolsSupported = 115,
};
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int ordinal);

struct CUstream_st;
using cudaStream_t = CUstream_st*;
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2 };
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);

struct CUevent_st;
using cudaEvent_t = CUevent_st*;
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);

struct CUmemPool_st;
using cudaMemPool_t = CUmemPool_st*;
enum cudaMemAllocationType { cudaMemAllocationTypeInvalid = 0, cudaMemAllocationTypePinned = 1 };
enum cudaMemAllocationHandleType { cudaMemHandleTypeNone = 0 };
enum cudaMemLocationType { cudaMemLocationTypeInvalid = 0, cudaMemLocationTypeDevice = 1, cudaMemLocationTypeHost = 2 };
struct cudaMemLocation {
  cudaMemLocationType type;
  int id;
};
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  cudaMemAllocationHandleType handleTypes;
  cudaMemLocation location;
  void* win32SecurityAttributes;
  size_t maxSize;
  unsigned short usage;
  unsigned char reserved[54];
};
enum cudaMemPoolAttr {
  cudaMemPoolAttrReleaseThreshold = 4,
  cudaMemPoolAttrReservedMemCurrent = 5,
  cudaMemPoolAttrUsedMemCurrent = 7,
};
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int ordinal);
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties);
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream);
cudaError_t cudaMallocFromPoolAsync(void** data, size_t bytes, cudaMemPool_t pool, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream);
enum { cudaHostAllocDefault = 0, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2, cudaHostAllocWriteCombined = 4 };
cudaError_t cudaMallocHost(void** data, size_t bytes);
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* data);
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream = nullptr);

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
struct cudaFuncAttributes {
  int maxThreadsPerBlock;
};
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);

namespace sas::emulator {
cudaError_t Launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread);
}
// The kernel runs later, on the arguments as they are now. They lie outside the closure: see CMakeLists.txt on GCC 12.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const auto values =
      std::make_shared<const std::tuple<std::remove_cvref_t<Parameters>...>>(std::forward<Arguments>(arguments)...);
  return sas::emulator::Launch(*config, reinterpret_cast<const void*>(kernel),
                               [kernel, values] { std::apply(kernel, *values); });
}
