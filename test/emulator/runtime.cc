// The runtime API of the emulated device: its properties, the limits of launches, counts per kernel. (Errors:
// faults.cc; streams and events: streams.cc; pools: pools.cc; copies and pinned memory: copies.cc.)
#include "runtime.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#include "faults.h"
#include "immortal.h"
#include "pools.h"

namespace sas::emulator {
namespace {

constexpr size_t kSharedByDefault = 48 << 10;
constexpr unsigned kMaxThreads = 1024;

// Dynamic shared memory of a block: that of sm_80; SAS_EMULATOR_SHARED=101376 is that of sm_86, sm_89 and sm_120.
size_t SharedLimit() { return Setting("SAS_EMULATOR_SHARED", 163 << 10); }

struct Capability {
  int major = 8, minor = 0;
};
Capability ComputeCapability() {
  Capability capability;
  if (const char* setting = std::getenv("SAS_EMULATOR_CAPABILITY"); setting != nullptr) {
    std::sscanf(setting, "%d.%d", &capability.major, &capability.minor);
  }
  return capability;
}

// What all threads of the process share.
struct Globals {
  std::mutex mutex;
  std::map<const void*, int> shared_attributes;  // by kernel
  std::map<const void*, std::unique_ptr<KernelCounts>> counts;
};
void Report();
Globals& TheGlobals() {
  static Globals& globals = MakeImmortal<Globals>();
  [[maybe_unused]] static const int reported = std::atexit(Report);
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
void Report() {
  const char* setting = std::getenv("SAS_EMULATOR_REPORT");
  Globals& globals = TheGlobals();
  const std::lock_guard lock(globals.mutex);
  const auto& counts = globals.counts;
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

}  // namespace

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

KernelCounts& CountsOf(const void* kernel) {
  Globals& globals = TheGlobals();
  const std::lock_guard lock(globals.mutex);
  auto& counts = globals.counts[kernel];
  if (counts == nullptr) counts = std::make_unique<KernelCounts>();
  return *counts;
}

}  // namespace sas::emulator

using namespace sas::emulator;

#define SAS_BEGIN() \
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error
// Where no device is needed a lost one does not show.
#define SAS_BEGIN_WITHOUT_DEVICE() \
  if (const cudaError_t error = BeginWithoutDevice(__func__); error != cudaSuccess) return error

cudaError_t cudaGetDeviceCount(int* count) {
  SAS_BEGIN_WITHOUT_DEVICE();
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* ordinal) {
  SAS_BEGIN_WITHOUT_DEVICE();
  *ordinal = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int ordinal) {
  SAS_BEGIN();
  return ordinal == 0 ? cudaSuccess : SetFailure(cudaErrorInvalidDevice);
}
cudaError_t cudaDriverGetVersion(int* version) {
  SAS_BEGIN_WITHOUT_DEVICE();
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  SAS_BEGIN_WITHOUT_DEVICE();
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int ordinal) {
  SAS_BEGIN_WITHOUT_DEVICE();
  if (ordinal != 0) return SetFailure(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated CUDA device (on the CPU, seed %llu)",
                static_cast<unsigned long long>(Seed()));
  properties->totalGlobalMem = MemoryLimit();
  properties->major = ComputeCapability().major;
  properties->minor = ComputeCapability().minor;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int ordinal) {
  SAS_BEGIN_WITHOUT_DEVICE();
  if (ordinal != 0) return SetFailure(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = static_cast<int>(Setting("SAS_EMULATOR_MULTIPROCESSORS", 3));
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = ComputeCapability().major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = ComputeCapability().minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(SharedLimit());
      return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported:
      *value = PoolsSupported() ? 1 : 0;
      return cudaSuccess;
  }
  return SetFailure(cudaErrorInvalidValue, "an attribute that is not emulated");
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  SAS_BEGIN();
  attributes->maxThreadsPerBlock = 1024;  // __launch_bounds__ are not known here
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  SAS_BEGIN();
  if (value < 0 || static_cast<size_t>(value) > SharedLimit()) {
    return SetFailure(cudaErrorInvalidValue, std::to_string(value) + " bytes of shared memory, the device has " +
                                                 std::to_string(SharedLimit()));
  }
  Globals& globals = TheGlobals();
  const std::lock_guard lock(globals.mutex);
  globals.shared_attributes[kernel] = value;
  return cudaSuccess;
}
