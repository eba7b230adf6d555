// What CUDA operations run on: one stream of one device, scratch memory in stream order, kernel launches.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/device.h"
#include "cuda/cublas.h"
#include "cuda/device_memory.h"
#include "cuda/failure.h"
#include "cuda/staging.h"
#include "cuda/weight_cache.h"

namespace sas::cuda {

// Thrown where scratch memory cannot be had because the device has failed.
struct DeviceFailure {
  Status status;
};

// What a kernel is started on. `threads` is a multiple of 32.
struct Grid {
  dim3 blocks;
  unsigned threads;
  size_t shared_bytes = 0;  // dynamic shared memory per block
};

// A value outside of its limits: position << 32 | value; of several, the one at the lowest position.
using CheckRecord = unsigned long long;
constexpr CheckRecord kNothingOutside = ~0ull;

// The checks that keep an operation from writing in place, as its kernels see them: bit i of word w is check 64 w + i.
struct CheckGuard {
  const CheckRecord* records;
  uint64_t checks[Device::kMaxChecks / 64];
};

class CudaContext : public Context {
 public:
  CudaContext() = default;
  ~CudaContext() override;
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  Status Open(int ordinal, bool tf32);

  // Every operation runs between Begin, which makes the device current on the executor thread, and End, which returns
  // the scratch memory. `operation` is a literal, null for a copy. Begin fails where the device is lost.
  Status Begin(const char* operation = nullptr);
  void End();
  // Of a failed operation, copy or wait: the same, or that the device is lost, and then of all that follow.
  Status Judge(Status status);
  // Fails where the device is lost. Any thread.
  Status Alive() const;

  // Memory of tensors. Any thread.
  Status AllocateRaw(size_t bytes, void** data);
  void FreeRaw(void* data, size_t bytes) noexcept;
  void SetReclaim(std::function<void()> reclaim) { reclaim_ = std::move(reclaim); }

  // Scratch memory for the running operation, aligned to 256 bytes. Throws std::bad_alloc where there is none left,
  // DeviceFailure where the device cannot give any.
  template <class T>
  T* Take(int64_t count) {
    return static_cast<T*>(TakeBytes(static_cast<size_t>(count) * sizeof(T)));
  }

  // Memory in stream order that is not scratch; throws as Take.
  void* Allocate(size_t bytes);

  // Starts a kernel on the stream. An empty grid starts nothing.
  template <class... Parameters>
  Status Launch(void (*kernel)(Parameters...), const Grid& grid, std::type_identity_t<Parameters>... arguments) {
    if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return {};
    if (cancelled()) return DroppedAtShutdown();
    if (grid.shared_bytes > kSharedByDefault) SAS_TRY(AllowShared(reinterpret_cast<const void*>(kernel)));
    cudaLaunchConfig_t config{};
    config.gridDim = grid.blocks;
    config.blockDim = dim3(grid.threads);
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = stream_;
    return ToStatus(cudaLaunchKernelEx(&config, kernel, std::forward<Parameters>(arguments)...), "kernel launch");
  }

  // Threads of a block that `kernel` is compiled for, by its __launch_bounds__; at most `most`.
  template <class... Parameters>
  Status ThreadsOf(void (*kernel)(Parameters...), int most, int* threads) {
    const auto* key = reinterpret_cast<const void*>(kernel);
    auto known = threads_of_.find(key);
    if (known == threads_of_.end()) {
      cudaFuncAttributes attributes{};
      SAS_TRY(ToStatus(cudaFuncGetAttributes(&attributes, key), "cudaFuncGetAttributes"));
      known = threads_of_.emplace(key, attributes.maxThreadsPerBlock).first;
    }
    *threads = std::min(most, known->second);
    return {};
  }

  // Starts the running operation's check (see Device): `describe` makes a failure of the value that a kernel records
  // (RecordOutside) and `limit`. At most one per operation.
  using Describe = Status (*)(int32_t value, int64_t position, int64_t limit);
  CheckRecord* StartCheck(Describe describe, int64_t limit);
  size_t checks_started() const { return checks_.size(); }
  // Of the running operation, which writes in place.
  const CheckGuard& guard() const { return guard_; }
  void SetGuard(const std::bitset<Device::kMaxChecks>& checks);
  std::vector<Status> TakeCheckResults() { return std::exchange(check_results_, {}); }

  Status CopyToDevice(void* target, const void* source, size_t bytes);
  Status CopyToHost(void* target, const void* source, size_t bytes);
  Status StartFetch(const void* source, size_t bytes, std::unique_ptr<Device::Fetch>* fetch);
  Status Synchronize();
  // Waits until the stream has come to the event, or until Cancel.
  Status Await(cudaEvent_t event);
  // Whether the stream has nothing to do. Any thread.
  bool Idle() const;
  // Gives memory that has been freed back to the system, and what is kept of weights.
  void Trim();
  // The same, but for the weights, and for what an operation that takes `scratch` will want again.
  void TrimTo(size_t scratch);
  // No kernel starts and no wait lasts from now on. Any thread.
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

  int ordinal() const { return ordinal_; }
  // Whether this thread is the environment's and not the executor's.
  bool OnOpenersThread() const { return std::this_thread::get_id() == opener_; }
  cudaStream_t stream() const { return stream_; }
  // Counters of blocks that arrive (LastToArrive), 0 between launches: those of one stream can share them.
  static constexpr int64_t kArrivals = 4096;
  unsigned* arrivals() const { return arrivals_; }
  Blas& blas() { return blas_; }
  const Blas& blas() const { return blas_; }
  WeightCache& weights() { return weights_; }
  int multiprocessors() const { return multiprocessors_; }
  // Dynamic shared memory that one block can have, in bytes.
  size_t shared_limit() const { return shared_limit_; }
  // SAS_TF32=1: products of f32 operands in TF32.
  bool tf32() const { return tf32_; }
  // Held beside the memory of tensors.
  DeviceReserve reserve() const {
    return {.scratch = scratch_kept_.load(std::memory_order_relaxed),
            .kept = weights_.bytes(),
            .idle = idle_.load(std::memory_order_relaxed)};
  }
  size_t TakeScratchPeak() { return scratch_peak_.exchange(0, std::memory_order_relaxed); }

 private:
  static constexpr size_t kSharedByDefault = 48 << 10;

  // Lets the kernel have all the shared memory of a block, once. (All: another context of the device may have asked for
  // less than this one.)
  Status AllowShared(const void* kernel) {
    if (shared_allowed_.contains(kernel)) return {};
    SAS_TRY(ToStatus(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_limit_)),
        "cudaFuncSetAttribute"));
    shared_allowed_.insert(kernel);
    return {};
  }
  void* TakeBytes(size_t bytes);
  void MakeRoom();
  Status ClearRecords(size_t count);
  Status FetchRecords();
  Status CollectCheckResults();

  const std::thread::id opener_ = std::this_thread::get_id();
  int ordinal_ = 0;
  int multiprocessors_ = 0;
  size_t shared_limit_ = 0;
  bool tf32_ = false;
  std::atomic<bool> cancelled_{false};
  cudaStream_t stream_ = nullptr;
  cudaEvent_t reached_ = nullptr;  // recorded at the end of the stream by Synchronize
  DeviceMemory memory_;
  std::function<void()> reclaim_;  // see Device::SetReclaim
  Blas blas_;
  std::unordered_map<const void*, int> threads_of_;  // by kernel
  std::unordered_set<const void*> shared_allowed_;
  std::vector<void*> scratch_;
  size_t scratch_bytes_ = 0;
  std::atomic<size_t> scratch_peak_{0};  // of operations since TakeScratchPeak
  std::atomic<size_t> scratch_kept_{0};  // of operations since the last trim: the pool keeps as much
  std::atomic<size_t> idle_{0};          // returned by tensors, and kept by the pool, which may use it for anything
  WeightCache weights_{*this};
  Staging staging_;
  ReadSlots read_slots_;
  std::atomic<const char*> operation_{"none"};  // begun last

  std::atomic<bool> lost_{false};
  mutable std::mutex mutex_;
  Status loss_;  // how the device was lost; guarded by mutex_

  struct Check {
    Status Result(CheckRecord record) const;

    Describe describe;
    int64_t limit;
  };
  class Fetch;
  std::vector<Check> checks_;          // since the last wait
  std::vector<Status> check_results_;  // of those before
  CheckGuard guard_{};
  CheckRecord* records_ = nullptr;       // on the device, one per check
  CheckRecord* host_records_ = nullptr;  // pinned, copied at a wait
  unsigned* arrivals_ = nullptr;         // on the device
};

__host__ __device__ constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Calls `body` with a null pointer of the storage type.
template <class Body>
Status DispatchFloat(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF32:
      return body(static_cast<float*>(nullptr));
    case DType::kBF16:
      return body(static_cast<BFloat16*>(nullptr));
    case DType::kF16:
      return body(static_cast<Float16*>(nullptr));
    default:
      return Status(StatusCode::kInternal, "expected dtype f32, bf16 or f16");
  }
}

}  // namespace sas::cuda
