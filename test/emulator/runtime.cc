// The runtime API of the emulated device: host memory, synchronous streams, the limits of an sm_80 device.
#include "runtime.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <random>

#include "memory.h"

namespace sas::emulator {
namespace {

constexpr size_t kSharedByDefault = 48 << 10;
constexpr unsigned kMaxThreads = 1024;

uint64_t Setting(const char* name, uint64_t fallback) {
  const char* value = std::getenv(name);
  return value == nullptr ? fallback : std::strtoull(value, nullptr, 10);
}

// Dynamic shared memory of a block: that of sm_80; SAS_EMULATOR_SHARED=101376 is that of sm_86, sm_89 and sm_120.
size_t SharedLimit() { return Setting("SAS_EMULATOR_SHARED", 163 << 10); }
size_t MemoryLimit() { return Setting("SAS_EMULATOR_MEMORY", size_t{4} << 30); }

// What all threads of the process share.
struct Globals {
  std::mutex mutex;
  std::map<const void*, int> shared_attributes;  // by kernel
  std::map<const void*, std::unique_ptr<KernelCounts>> counts;

  ~Globals();
};
Globals& TheGlobals() {
  static Globals globals;
  return globals;
}

// The demangled names of this library's functions by address, from nm: kernels are not exported.
std::map<uintptr_t, std::string> FunctionNames(const char* file, uintptr_t base) {
  std::map<uintptr_t, std::string> names;
  const std::string command = std::string("nm -C --defined-only '") + file + "' 2>/dev/null";
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return names;
  char line[4096];
  while (std::fgets(line, sizeof line, pipe) != nullptr) {
    char* rest = nullptr;
    const uintptr_t address = std::strtoull(line, &rest, 16);
    if (rest == line || std::strlen(rest) < 4) continue;
    std::string name = rest + 3;
    name.erase(name.find_last_not_of('\n') + 1);
    names[base + address] = name;
  }
  pclose(pipe);
  return names;
}

// SAS_EMULATOR_REPORT=file: one tab-separated line per kernel at exit. %p in the name becomes the process's id.
Globals::~Globals() {
  const char* setting = std::getenv("SAS_EMULATOR_REPORT");
  if (setting == nullptr || counts.empty()) return;
  std::string path = setting;
  if (const size_t at = path.find("%p"); at != std::string::npos) path.replace(at, 2, std::to_string(getpid()));
  Dl_info library{};
  dladdr(reinterpret_cast<const void*>(&FunctionNames), &library);
  const auto names = FunctionNames(library.dli_fname, reinterpret_cast<uintptr_t>(library.dli_fbase));
  FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) return;
  std::fprintf(
      file,
      "kernel\tlaunches\tproducts\tldmatrix\tconflicts\taccesses\tsectors\tideal_sectors\tshared_bytes\tthreads\n");
  for (const auto& [kernel, count] : counts) {
    const auto name = names.find(reinterpret_cast<uintptr_t>(kernel));
    std::string line = name == names.end() ? std::string("unknown") : name->second;
    for (const uint64_t value :
         {count->launches, count->products, count->matrix_loads, count->matrix_conflicts, count->global_accesses,
          count->global_sectors, count->ideal_sectors, count->most_shared_bytes, count->most_threads}) {
      line.append("\t").append(std::to_string(value));
    }
    std::fprintf(file, "%s\n", line.c_str());
  }
  std::fclose(file);
}

thread_local cudaError_t last_error = cudaSuccess, explained_error = cudaSuccess;
thread_local std::string explanation;

}  // namespace

cudaError_t SetFailure(cudaError_t error, std::string message) {
  last_error = explained_error = error;
  explanation = std::move(message);
  return error;
}

std::string CheckLaunch(const cudaLaunchConfig_t& config, const void* kernel) {
  const auto number = [](auto value) { return std::to_string(value); };
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (block.y != 1 || block.z != 1 || block.x == 0 || block.x > kMaxThreads || block.x % 32 != 0) {
    return "a block of " + number(block.x) + " x " + number(block.y) + " x " + number(block.z) +
           " threads: expected one dimension, whole warps, at most 1024";
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return "a grid of " + number(grid.x) + " x " + number(grid.y) + " x " + number(grid.z) + " blocks";
  }
  size_t allowed = kSharedByDefault;
  {
    Globals& globals = TheGlobals();
    const std::lock_guard lock(globals.mutex);
    if (const auto set = globals.shared_attributes.find(kernel); set != globals.shared_attributes.end()) {
      allowed = std::max(allowed, static_cast<size_t>(set->second));
    }
  }
  if (config.dynamicSmemBytes > allowed) {
    return number(config.dynamicSmemBytes) + " bytes of shared memory, the kernel may have " + number(allowed);
  }
  return "";
}

uint64_t Seed() {
  static const uint64_t seed = Setting("SAS_EMULATOR_SEED", std::random_device{}());
  return seed;
}

KernelCounts& CountsOf(const void* kernel) {
  Globals& globals = TheGlobals();
  const std::lock_guard lock(globals.mutex);
  auto& counts = globals.counts[kernel];
  if (counts == nullptr) counts = std::make_unique<KernelCounts>();
  return *counts;
}

}  // namespace sas::emulator

using namespace sas::emulator;

struct CUstream_st {};
struct CUevent_st {
  std::chrono::steady_clock::time_point time;
};

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorMisalignedAddress:
      return "cudaErrorMisalignedAddress";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
  }
  return "cudaErrorUnknown";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error != explained_error || explanation.empty() ? "emulated device" : explanation.c_str();
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int ordinal) { return ordinal == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated CUDA device (on the CPU, seed %llu)",
                static_cast<unsigned long long>(Seed()));
  properties->totalGlobalMem = MemoryLimit();
  properties->major = 8;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 3 : static_cast<int>(SharedLimit());
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = std::make_unique<CUstream_st>().release();
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::unique_ptr<CUstream_st> owned(stream);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = std::make_unique<CUevent_st>().release();
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
  *milliseconds = std::chrono::duration<float, std::milli>(stop->time - start->time).count();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::unique_ptr<CUevent_st> owned(event);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) {
  *data = AllocateDevice(bytes, MemoryLimit());
  return *data != nullptr ? cudaSuccess : SetFailure(cudaErrorMemoryAllocation, "");
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t) {
  return FreeDevice(data) ? cudaSuccess : SetFailure(cudaErrorInvalidValue, "freeing what was not allocated");
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  memcpy(target, source, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
  memset(target, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->maxThreadsPerBlock = 1024;  // __launch_bounds__ are not known here
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (value < 0 || static_cast<size_t>(value) > SharedLimit()) {
    return SetFailure(cudaErrorInvalidValue, std::to_string(value) + " bytes of shared memory, the device has " +
                                                 std::to_string(SharedLimit()));
  }
  Globals& globals = TheGlobals();
  const std::lock_guard lock(globals.mutex);
  globals.shared_attributes[kernel] = value;
  return cudaSuccess;
}
