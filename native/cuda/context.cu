#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "cuda/context.h"

namespace sas::cuda {
namespace {

using Clock = std::chrono::steady_clock;

// How long the end of a process or worker waits for kernels that run.
constexpr auto kLongestShutdown = std::chrono::milliseconds(500);

// What a query says that is no failure, though the runtime remembers it as one.
bool NotReady(cudaError_t error) {
  if (error != cudaErrorNotReady) return false;
  static_cast<void>(cudaGetLastError());
  return true;
}

// Polls until `done`, at first at once, then as seldom as it delays the answer by about a hundredth.
template <class Done>
void Poll(const Done& done) {
  const auto start = Clock::now();
  while (!done()) {
    const auto pause = (Clock::now() - start) / 100;
    if (pause < std::chrono::microseconds(50)) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::min<Clock::duration>(pause, std::chrono::milliseconds(10)));
    }
  }
}

}  // namespace

Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  static_cast<void>(cudaGetLastError());  // clears the error unless the device is lost
  const std::string message =
      std::string(what) + " failed: " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ")";
  if (error == cudaErrorMemoryAllocation) return Status(StatusCode::kOutOfMemory, message);
  return Status(StatusCode::kDevice, message);
}

Status CudaContext::Open(int ordinal, bool tf32) {
  ordinal_ = ordinal;
  tf32_ = tf32;
  SAS_TRY(Begin());
  int shared = 0;
  SAS_CUDA_TRY(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, ordinal));
  SAS_CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal));
  shared_limit_ = static_cast<size_t>(shared);
  SAS_CUDA_TRY(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  SAS_CUDA_TRY(cudaEventCreateWithFlags(&reached_, cudaEventDisableTiming));
  // Freed memory stays in the pool: the next operation takes it again without a call to the driver.
  cudaMemPool_t pool = nullptr;
  uint64_t keep = ~uint64_t{0};
  SAS_CUDA_TRY(cudaDeviceGetDefaultMemPool(&pool, ordinal));
  SAS_CUDA_TRY(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  constexpr size_t kRecordBytes = Device::kMaxChecks * sizeof(CheckRecord);
  void* memory = nullptr;
  SAS_CUDA_TRY(cudaMallocAsync(&memory, kRecordBytes, stream_));
  records_ = static_cast<CheckRecord*>(memory);
  SAS_CUDA_TRY(cudaMallocHost(&memory, kRecordBytes));
  host_records_ = static_cast<CheckRecord*>(memory);
  SAS_TRY(ClearRecords(Device::kMaxChecks));
  SAS_CUDA_TRY(cudaMallocAsync(&memory, kArrivals * sizeof *arrivals_, stream_));
  arrivals_ = static_cast<unsigned*>(memory);
  SAS_CUDA_TRY(cudaMemsetAsync(arrivals_, 0, kArrivals * sizeof *arrivals_, stream_));
  blas_.Open(ordinal, stream_, tf32_);
  return {};
}

CudaContext::~CudaContext() {
  if (stream_ == nullptr) return;
  static_cast<void>(cudaSetDevice(ordinal_));
  End();
  static_cast<void>(weights_.Drop());
  if (records_ != nullptr) static_cast<void>(cudaFreeAsync(records_, stream_));
  if (arrivals_ != nullptr) static_cast<void>(cudaFreeAsync(arrivals_, stream_));
  const auto end = Clock::now() + kLongestShutdown;
  Poll([&] { return Idle() || Clock::now() > end; });
  // What kernels that run on may still use is left to the end of the process.
  if (!Idle()) return;
  if (reached_ != nullptr) static_cast<void>(cudaEventDestroy(reached_));
  if (host_records_ != nullptr) static_cast<void>(cudaFreeHost(host_records_));
  for (const Staging& staging : staging_) {
    if (staging.done != nullptr) static_cast<void>(cudaEventDestroy(staging.done));
    if (staging.memory != nullptr) static_cast<void>(cudaFreeHost(staging.memory));
  }
  blas_.Close();
  static_cast<void>(cudaStreamDestroy(stream_));
}

void* CudaContext::Allocate(size_t bytes) {
  while (true) {
    void* data = nullptr;
    Status status = ToStatus(cudaMallocAsync(&data, std::max<size_t>(bytes, 1), stream_), "cudaMallocAsync");
    if (status.ok()) return data;
    if (status.code() != StatusCode::kOutOfMemory) throw DeviceFailure{std::move(status)};
    if (!weights_.Drop()) throw std::bad_alloc();
  }
}

void* CudaContext::TakeBytes(size_t bytes) {
  void* data = Allocate(bytes);
  scratch_.push_back(data);
  scratch_bytes_ += bytes;
  if (scratch_bytes_ > scratch_peak()) scratch_peak_.store(scratch_bytes_, std::memory_order_relaxed);
  return data;
}

void CudaContext::End() {
  // In stream order: kernels already queued finish on the memory.
  for (void* data : scratch_) static_cast<void>(cudaFreeAsync(data, stream_));
  scratch_.clear();
  scratch_bytes_ = 0;
  weights_.EndOperation();
}

CheckRecord* CudaContext::StartCheck(Describe describe, int64_t limit) {
  checks_.push_back({describe, limit});
  return records_ + checks_.size() - 1;
}

void CudaContext::SetGuard(const std::bitset<Device::kMaxChecks>& checks) {
  guard_ = {records_, {}};
  for (size_t check = 0; check < checks.size(); ++check) {
    guard_.checks[check / 64] |= uint64_t{checks[check]} << check % 64;
  }
}

Status CudaContext::ClearRecords(size_t count) {
  static_assert(kNothingOutside == ~CheckRecord{0});  // all bits set
  SAS_CUDA_TRY(cudaMemsetAsync(records_, 0xff, count * sizeof(CheckRecord), stream_));
  return {};
}

// The records come with whatever the host waits for next.
Status CudaContext::FetchRecords() {
  if (checks_.empty()) return {};
  SAS_CUDA_TRY(
      cudaMemcpyAsync(host_records_, records_, checks_.size() * sizeof(CheckRecord), cudaMemcpyDeviceToHost, stream_));
  return {};
}

// After the wait. Ends all checks.
Status CudaContext::CollectCheckResults() {
  bool failed = false;
  for (size_t i = 0; i < checks_.size(); ++i) {
    const CheckRecord record = host_records_[i];
    check_results_.push_back(record == kNothingOutside
                                 ? Status()
                                 : checks_[i].describe(static_cast<int32_t>(static_cast<uint32_t>(record)),
                                                       static_cast<int64_t>(record >> 32), checks_[i].limit));
    failed = failed || !check_results_.back().ok();
  }
  const size_t count = checks_.size();
  checks_.clear();
  return failed ? ClearRecords(count) : Status();
}

Status CudaContext::PrepareStaging() {
  for (Staging& staging : staging_) {
    if (staging.memory == nullptr) {
      void* memory = nullptr;
      SAS_CUDA_TRY(cudaMallocHost(&memory, kStagingBytes));
      staging.memory = static_cast<unsigned char*>(memory);
    }
    if (staging.done == nullptr) {
      SAS_CUDA_TRY(cudaEventCreateWithFlags(&staging.done, cudaEventDisableTiming));
      SAS_CUDA_TRY(cudaEventRecord(staging.done, stream_));
    }
  }
  return {};
}

Status CudaContext::CopyToDevice(void* target, const void* source, size_t bytes) {
  SAS_TRY(Begin());
  SAS_TRY(PrepareStaging());
  size_t chunk = 0;
  for (size_t at = 0; at < bytes; at += kStagingBytes, ++chunk) {
    const Staging& staging = staging_[chunk % 2];
    const size_t count = std::min(kStagingBytes, bytes - at);
    SAS_TRY(Await(staging.done));  // the copy before last has left this half
    std::memcpy(staging.memory, static_cast<const unsigned char*>(source) + at, count);
    SAS_CUDA_TRY(cudaMemcpyAsync(static_cast<unsigned char*>(target) + at, staging.memory, count,
                                 cudaMemcpyHostToDevice, stream_));
    SAS_CUDA_TRY(cudaEventRecord(staging.done, stream_));
  }
  return {};
}

Status CudaContext::CopyToHost(void* target, const void* source, size_t bytes) {
  if (bytes == 0) return {};
  SAS_TRY(Begin());
  SAS_TRY(PrepareStaging());
  SAS_TRY(FetchRecords());
  const size_t chunks = static_cast<size_t>(CeilDiv(static_cast<int64_t>(bytes), kStagingBytes));
  for (size_t chunk = 0; chunk <= chunks; ++chunk) {
    if (chunk < chunks) {  // one half fills while the other is emptied
      const Staging& staging = staging_[chunk % 2];
      const size_t at = chunk * kStagingBytes;
      SAS_TRY(Await(staging.done));
      SAS_CUDA_TRY(cudaMemcpyAsync(staging.memory, static_cast<const unsigned char*>(source) + at,
                                   std::min(kStagingBytes, bytes - at), cudaMemcpyDeviceToHost, stream_));
      SAS_CUDA_TRY(cudaEventRecord(staging.done, stream_));
    }
    if (chunk > 0) {
      const Staging& staging = staging_[(chunk - 1) % 2];
      const size_t at = (chunk - 1) * kStagingBytes;
      SAS_TRY(Await(staging.done));
      std::memcpy(static_cast<unsigned char*>(target) + at, staging.memory, std::min(kStagingBytes, bytes - at));
    }
  }
  return CollectCheckResults();
}

Status CudaContext::Synchronize() {
  SAS_TRY(Begin());
  SAS_TRY(FetchRecords());
  SAS_CUDA_TRY(cudaEventRecord(reached_, stream_));
  SAS_TRY(Await(reached_));
  return CollectCheckResults();
}

bool CudaContext::Idle() const { return !NotReady(cudaStreamQuery(stream_)); }

Status CudaContext::Await(cudaEvent_t event) {
  cudaError_t error = cudaSuccess;
  Poll([&] { return cancelled() || !NotReady(error = cudaEventQuery(event)); });
  if (cancelled()) return DroppedAtShutdown();
  return ToStatus(error, "cudaEventQuery");
}

void CudaContext::Trim() {
  if (!Begin().ok()) return;
  // The pool gives back what the stream is done with.
  if (weights_.Drop() && cudaEventRecord(reached_, stream_) == cudaSuccess) static_cast<void>(Await(reached_));
  cudaMemPool_t pool = nullptr;
  if (cudaDeviceGetDefaultMemPool(&pool, ordinal_) != cudaSuccess) return;
  static_cast<void>(cudaMemPoolTrimTo(pool, 0));
}

}  // namespace sas::cuda
