#include "pools.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <mutex>

#include "cuda_runtime.h"
#include "faults.h"
#include "immortal.h"
#include "memory.h"
#include "streams.h"

// Bytes of a pool are in use, or freed on a stream that has yet to come to that point, or free; together they are what
// the pool has reserved. They have no addresses: nothing is ever fragmented.
struct CUmemPool_st {
  // A call of cudaFreeAsync that its stream has yet to come to. Allocations on the same stream come after it, so they
  // may take the bytes at once; others take them when they are free.
  struct Freed {
    size_t bytes;
  };

  size_t used = 0, unused = 0, reserved = 0;
  std::map<cudaStream_t, std::deque<std::shared_ptr<Freed>>> freed;
  size_t max_bytes = 0;  // 0: the device's memory
  uint64_t release_threshold = 0;
  bool destroyed = false;  // ends with its last allocation
};

namespace sas::emulator {

size_t MemoryLimit() {
  static const size_t limit = Setting("SAS_EMULATOR_MEMORY", size_t{4} << 30);
  return limit;
}
bool PoolsSupported() {
  static const bool supported = Setting("SAS_EMULATOR_POOLS", 1) != 0;
  return supported;
}

namespace {

class Pools {
 public:
  cudaMemPool_t Default() { return &default_; }
  bool Known(cudaMemPool_t pool) {
    const std::lock_guard lock(mutex_);
    return IsKnown(pool);
  }

  cudaMemPool_t Create(size_t max_bytes) {
    auto pool = std::make_unique<CUmemPool_st>();
    pool->max_bytes = max_bytes;
    const std::lock_guard lock(mutex_);
    return pools_.emplace_back(std::move(pool)).get();
  }

  void Destroy(cudaMemPool_t pool) {
    const std::lock_guard lock(mutex_);
    pool->destroyed = true;
    pool->reserved -= std::exchange(pool->unused, 0);
    EraseIfDone(pool);
  }

  void* Allocate(cudaMemPool_t pool, size_t bytes, cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    auto& freed = pool->freed[stream];
    size_t left = bytes;
    const auto take = [&left](size_t available) {
      const size_t taken = std::min(left, available);
      left -= taken;
      return taken;
    };
    const size_t from_unused = take(pool->unused);
    size_t available = 0;
    for (const auto& each : freed) available += each->bytes;
    size_t from_freed = take(available);
    const size_t most = pool->max_bytes == 0 ? MemoryLimit() : std::min(MemoryLimit(), pool->max_bytes);
    if (left > MemoryLimit() - Reserved() || left > most - std::min(most, pool->reserved)) return nullptr;
    void* data = DeviceMemory().Add(bytes);
    if (data == nullptr) return nullptr;
    pool->unused -= from_unused;
    for (const auto& each : freed) {
      const size_t taken = std::min(from_freed, each->bytes);
      each->bytes -= taken;
      from_freed -= taken;
    }
    pool->reserved += left;
    pool->used += bytes;
    owners_[data] = {pool, bytes};
    return data;
  }

  // At the call. What its stream does when it comes to it, or nothing: not allocated, or freed before.
  std::function<Fault()> Free(void* data, cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    const auto owner = owners_.find(data);
    if (owner == owners_.end()) return nullptr;
    const auto [pool, bytes] = owner->second;
    owners_.erase(owner);
    pool->used -= bytes;
    auto freed = std::make_shared<CUmemPool_st::Freed>(bytes);
    pool->freed[stream].push_back(freed);
    return [this, pool = pool, stream, freed, data]() -> Fault {
      DeviceMemory().Close(data);
      const std::lock_guard reached(mutex_);
      (pool->destroyed ? pool->reserved : pool->unused) += pool->destroyed ? size_t{0} - freed->bytes : freed->bytes;
      auto& queue = pool->freed[stream];
      std::erase(queue, freed);
      if (queue.empty()) pool->freed.erase(stream);
      EraseIfDone(pool);
      return {};
    };
  }

  void Trim(cudaMemPool_t pool, uint64_t keep) {
    const std::lock_guard lock(mutex_);
    TrimTo(*pool, keep);
  }
  void ReleaseBeyondThresholds() {
    const std::lock_guard lock(mutex_);
    TrimTo(default_, default_.release_threshold);
    for (const auto& pool : pools_) TrimTo(*pool, pool->release_threshold);
  }
  size_t Free() {
    const std::lock_guard lock(mutex_);
    return MemoryLimit() - Reserved();
  }
  // Runs `body` while nothing changes.
  template <class Body>
  void Locked(const Body& body) {
    const std::lock_guard lock(mutex_);
    body();
  }
  void Reset() {
    const std::lock_guard lock(mutex_);
    owners_.clear();
    pools_.clear();
    default_ = {};
  }

 private:
  bool IsKnown(cudaMemPool_t pool) const {
    return pool == &default_ ||
           std::ranges::any_of(pools_, [&](const auto& each) { return each.get() == pool && !pool->destroyed; });
  }
  size_t Reserved() const {
    size_t sum = default_.reserved;
    for (const auto& pool : pools_) sum += pool->reserved;
    return sum;
  }
  static void TrimTo(CUmemPool_st& pool, uint64_t keep) {
    if (pool.reserved <= keep) return;
    const size_t given_back = std::min<uint64_t>(pool.unused, pool.reserved - keep);
    pool.unused -= given_back;
    pool.reserved -= given_back;
  }
  void EraseIfDone(cudaMemPool_t pool) {
    if (!pool->destroyed || pool->used > 0 || !pool->freed.empty()) return;
    std::erase_if(pools_, [pool](const auto& each) { return each.get() == pool; });
  }

  struct Owner {
    cudaMemPool_t pool;
    size_t bytes;
  };
  std::mutex mutex_;
  CUmemPool_st default_;
  std::deque<std::unique_ptr<CUmemPool_st>> pools_;
  std::map<void*, Owner> owners_;
};
Pools& ThePools() {
  static Pools& pools = MakeImmortal<Pools>();
  return pools;
}

cudaError_t NoPools() { return SetFailure(cudaErrorNotSupported, "the device has no memory pools"); }
cudaError_t NotAPool() { return SetFailure(cudaErrorInvalidValue, "not a memory pool, or one that was destroyed"); }

cudaError_t Allocate(void** data, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  if (!PoolsSupported()) return NoPools();
  if (data == nullptr || bytes == 0) return SetFailure(cudaErrorInvalidValue, "an allocation of nothing");
  if (!ThePools().Known(pool)) return NotAPool();
  if (!IsStream(stream)) return SetFailure(cudaErrorInvalidResourceHandle, "not a stream, or one that was destroyed");
  void* memory = ThePools().Allocate(pool, bytes, stream);
  if (memory == nullptr) {
    return SetFailure(cudaErrorMemoryAllocation, std::to_string(bytes) + " bytes of device memory, " +
                                                     std::to_string(ThePools().Free()) + " are free");
  }
  *data = memory;
  return Enqueue(stream, [memory]() -> Fault {
    DeviceMemory().Open(memory);
    return {};
  });
}

}  // namespace

void ReleaseBeyondThresholds() { ThePools().ReleaseBeyondThresholds(); }
void ResetPools() {
  ThePools().Reset();
  DeviceMemory().Clear();
}

}  // namespace sas::emulator

using namespace sas::emulator;

#define SAS_BEGIN() \
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream) {
  SAS_BEGIN();
  return Allocate(data, bytes, ThePools().Default(), stream);
}
cudaError_t cudaMallocFromPoolAsync(void** data, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  SAS_BEGIN();
  return Allocate(data, bytes, pool, stream);
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  SAS_BEGIN();
  if (!IsStream(stream)) return SetFailure(cudaErrorInvalidResourceHandle, "not a stream, or one that was destroyed");
  std::function<Fault()> free = ThePools().Free(data, stream);
  if (free == nullptr) return SetFailure(cudaErrorInvalidValue, "freeing what is not allocated");
  return Enqueue(stream, std::move(free));
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int ordinal) {
  SAS_BEGIN();
  if (ordinal != 0) return SetFailure(cudaErrorInvalidDevice);
  if (!PoolsSupported()) return NoPools();
  *pool = ThePools().Default();
  return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  SAS_BEGIN();
  if (!PoolsSupported()) return NoPools();
  const cudaMemPoolProps& wanted = *properties;
  const auto zero = [](unsigned char byte) { return byte == 0; };
  if (wanted.allocType != cudaMemAllocationTypePinned || wanted.handleTypes != cudaMemHandleTypeNone ||
      wanted.location.type != cudaMemLocationTypeDevice || wanted.location.id != 0 ||
      wanted.win32SecurityAttributes != nullptr || wanted.usage != 0 || !std::ranges::all_of(wanted.reserved, zero)) {
    return SetFailure(cudaErrorInvalidValue,
                      "a pool of pinned memory of device 0, all other properties 0, is emulated");
  }
  *pool = ThePools().Create(wanted.maxSize);
  return cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  SAS_BEGIN();
  if (pool == ThePools().Default() || !ThePools().Known(pool)) return NotAPool();
  ThePools().Destroy(pool);
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep) {
  SAS_BEGIN();
  if (!ThePools().Known(pool)) return NotAPool();
  ThePools().Trim(pool, keep);
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  SAS_BEGIN();
  if (!ThePools().Known(pool)) return NotAPool();
  if (attribute != cudaMemPoolAttrReleaseThreshold) return SetFailure(cudaErrorInvalidValue, "not emulated");
  ThePools().Locked([&] { pool->release_threshold = *static_cast<const uint64_t*>(value); });
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  SAS_BEGIN();
  if (!ThePools().Known(pool)) return NotAPool();
  cudaError_t result = cudaSuccess;
  ThePools().Locked([&] {
    uint64_t& out = *static_cast<uint64_t*>(value);
    if (attribute == cudaMemPoolAttrReleaseThreshold) {
      out = pool->release_threshold;
    } else if (attribute == cudaMemPoolAttrReservedMemCurrent) {
      out = pool->reserved;
    } else if (attribute == cudaMemPoolAttrUsedMemCurrent) {
      out = pool->used;
    } else {
      result = SetFailure(cudaErrorInvalidValue, "not emulated");
    }
  });
  return result;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  SAS_BEGIN();
  *free = ThePools().Free();
  *total = MemoryLimit();
  return cudaSuccess;
}
