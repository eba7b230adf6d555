#include <algorithm>
#include <cctype>
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

Status CudaContext::Open(int ordinal, bool tf32) {
  ordinal_ = ordinal;
  tf32_ = tf32;
  const CurrentDevice current(ordinal);
  SAS_TRY(current.status());
  int shared = 0;
  SAS_CUDA_TRY(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, ordinal));
  SAS_CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal));
  shared_limit_ = static_cast<size_t>(shared);
  SAS_CUDA_TRY(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  SAS_CUDA_TRY(cudaEventCreateWithFlags(&reached_, cudaEventDisableTiming));
  SAS_TRY(memory_.Open(ordinal, stream_));
  constexpr size_t kRecordBytes = Device::kMaxChecks * sizeof(CheckRecord);
  void* memory = nullptr;
  SAS_TRY(memory_.Allocate(kRecordBytes, &memory));
  records_ = static_cast<CheckRecord*>(memory);
  SAS_CUDA_TRY(cudaMallocHost(&memory, kRecordBytes));
  host_records_ = static_cast<CheckRecord*>(memory);
  SAS_TRY(ClearRecords(Device::kMaxChecks));
  SAS_TRY(memory_.Allocate(kArrivals * sizeof *arrivals_, &memory));
  arrivals_ = static_cast<unsigned*>(memory);
  SAS_CUDA_TRY(cudaMemsetAsync(arrivals_, 0, kArrivals * sizeof *arrivals_, stream_));
  blas_.Open(stream_, tf32_);
  return {};
}

CudaContext::~CudaContext() {
  if (stream_ == nullptr) return;
  const CurrentDevice current(ordinal_);
  End();
  static_cast<void>(weights_.Drop());
  if (records_ != nullptr) memory_.Free(records_);
  if (arrivals_ != nullptr) memory_.Free(arrivals_);
  const auto end = Clock::now() + kLongestShutdown;
  Poll([&] { return Idle() || Clock::now() > end; });
  // What kernels that run on may still use is left to the end of the process.
  if (!Idle()) return;
  if (reached_ != nullptr) static_cast<void>(cudaEventDestroy(reached_));
  if (host_records_ != nullptr) static_cast<void>(cudaFreeHost(host_records_));
  staging_.Close();
  read_slots_.Close();
  blas_.Close();
  memory_.Close();
  static_cast<void>(cudaStreamDestroy(stream_));
}

Status CudaContext::Begin(const char* operation) {
  SAS_TRY(Alive());
  if (operation != nullptr) operation_ = operation;
  return ToStatus(cudaSetDevice(ordinal_), "cudaSetDevice");
}

Status CudaContext::Alive() const {
  if (!lost_.load(std::memory_order_acquire)) return {};
  const std::lock_guard lock(mutex_);
  return loss_;
}

Status CudaContext::Judge(Status status) {
  if (status.code() != StatusCode::kDevice || lost_ || cancelled()) return status;
  // After a fault in a kernel every call fails, this one too; after anything else it works.
  const cudaError_t error = cudaStreamQuery(stream_);
  if (error == cudaSuccess || NotReady(error)) return status;
  static_cast<void>(cudaGetLastError());
  std::string last(operation_.load());
  last[0] = static_cast<char>(std::tolower(last[0]));  // the op's name in JavaScript
  const std::lock_guard lock(mutex_);
  loss_ = Status(StatusCode::kDevice, "the device is lost to this process: " + DescribeError(error) +
                                          "; the op launched last was " + last +
                                          ". Start a new process, from the last checkpoint");
  lost_.store(true, std::memory_order_release);
  return loss_;
}

Status CudaContext::AllocateRaw(size_t bytes, void** data) {
  SAS_TRY(Alive());
  const CurrentDevice current(ordinal_);
  SAS_TRY(current.status());
  Status status = Judge(memory_.Allocate(bytes, data));
  // The pool takes what is idle first.
  for (size_t idle = idle_.load(); status.ok() && !idle_.compare_exchange_weak(idle, idle - std::min(idle, bytes));) {
  }
  return status;
}

void CudaContext::FreeRaw(void* data, size_t bytes) noexcept {
  const CurrentDevice current(ordinal_);
  memory_.Free(data);
  idle_ += bytes;
}

// Takes back what others no longer use, once the stream is done with it.
void CudaContext::MakeRoom() {
  static_cast<void>(weights_.Drop());
  if (reclaim_) reclaim_();
  if (cudaEventRecord(reached_, stream_) == cudaSuccess) static_cast<void>(Await(reached_));
  memory_.Trim();
  idle_ = 0;
}

void* CudaContext::Allocate(size_t bytes) {
  void* data = nullptr;
  Status status = memory_.Allocate(bytes, &data);
  if (status.code() == StatusCode::kOutOfMemory) {
    MakeRoom();
    status = memory_.Allocate(bytes, &data);
  }
  if (status.code() == StatusCode::kOutOfMemory) throw std::bad_alloc();
  if (!status.ok()) throw DeviceFailure{std::move(status)};
  return data;
}

void* CudaContext::TakeBytes(size_t bytes) {
  void* data = Allocate(bytes);
  scratch_.push_back(data);
  scratch_bytes_ += bytes;
  for (auto* most : {&scratch_peak_, &scratch_kept_}) {
    if (scratch_bytes_ > most->load(std::memory_order_relaxed)) most->store(scratch_bytes_, std::memory_order_relaxed);
  }
  return data;
}

void CudaContext::End() {
  // In stream order: kernels already queued finish on the memory.
  for (void* data : scratch_) memory_.Free(data);
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

Status CudaContext::Check::Result(CheckRecord record) const {
  if (record == kNothingOutside) return {};
  return describe(static_cast<int32_t>(static_cast<uint32_t>(record)), static_cast<int64_t>(record >> 32), limit);
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
    check_results_.push_back(checks_[i].Result(host_records_[i]));
    failed = failed || !check_results_.back().ok();
  }
  const size_t count = checks_.size();
  checks_.clear();
  return failed ? ClearRecords(count) : Status();
}

Status CudaContext::CopyToDevice(void* target, const void* source, size_t bytes) {
  SAS_TRY(Begin());
  for (size_t at = 0, count = 0; at < bytes; at += count) {
    count = std::min(Staging::kSlotBytes, bytes - at);
    StagingSlot* slot = nullptr;
    SAS_TRY(staging_.Next(&slot));
    SAS_TRY(Await(slot->done));
    std::memcpy(slot->memory, static_cast<const unsigned char*>(source) + at, count);
    SAS_CUDA_TRY(cudaMemcpyAsync(static_cast<unsigned char*>(target) + at, slot->memory, count, cudaMemcpyHostToDevice,
                                 stream_));
    SAS_CUDA_TRY(cudaEventRecord(slot->done, stream_));
  }
  return {};
}

Status CudaContext::CopyToHost(void* target, const void* source, size_t bytes) {
  if (bytes == 0) return {};
  SAS_TRY(Begin());
  SAS_TRY(FetchRecords());
  StagingSlot* filled = nullptr;  // with what follows `at`, once it is done
  size_t at = 0, filled_bytes = 0;
  for (size_t next = 0, count = 0; at < bytes; next += count) {  // one slot fills while the other is emptied
    count = std::min(Staging::kSlotBytes, bytes - next);
    StagingSlot* slot = nullptr;
    if (count > 0) {
      SAS_TRY(staging_.Next(&slot));
      SAS_TRY(Await(slot->done));
      SAS_CUDA_TRY(cudaMemcpyAsync(slot->memory, static_cast<const unsigned char*>(source) + next, count,
                                   cudaMemcpyDeviceToHost, stream_));
      SAS_CUDA_TRY(cudaEventRecord(slot->done, stream_));
    }
    if (filled != nullptr) {
      SAS_TRY(Await(filled->done));
      std::memcpy(static_cast<unsigned char*>(target) + at, filled->memory, filled_bytes);
      at += filled_bytes;
    }
    filled = slot;
    filled_bytes = count;
  }
  return CollectCheckResults();
}

// What was copied, then the records of the checks that were started before.
class CudaContext::Fetch : public Device::Fetch {
 public:
  static constexpr size_t kRecordBytes = Device::kMaxChecks * sizeof(CheckRecord);
  static constexpr size_t kMostBytes = ReadSlots::kSlotBytes - kRecordBytes;

  explicit Fetch(CudaContext& context) : context_(context) {}
  ~Fetch() override {
    if (copied_) context_.read_slots_.GiveBack(slot_);
  }
  // Leaves `slot_` null where none is free.
  Status Start(const void* source, size_t bytes) {
    SAS_TRY(context_.Begin());
    SAS_TRY(context_.read_slots_.Take(&slot_));
    if (slot_ == nullptr) return {};
    SAS_CUDA_TRY(
        cudaMemcpyAsync(slot_->memory + kRecordBytes, source, bytes, cudaMemcpyDeviceToHost, context_.stream_));
    checks_ = context_.checks_;
    if (!checks_.empty()) {
      SAS_CUDA_TRY(cudaMemcpyAsync(slot_->memory, context_.records_, checks_.size() * sizeof(CheckRecord),
                                   cudaMemcpyDeviceToHost, context_.stream_));
    }
    SAS_CUDA_TRY(cudaEventRecord(slot_->done, context_.stream_));
    return {};
  }
  bool started() const { return slot_ != nullptr; }

  bool Done() override {
    const cudaError_t error = cudaEventQuery(slot_->done);
    copied_ = error == cudaSuccess;
    if (NotReady(error) && !context_.cancelled()) return false;
    status_ = copied_                ? Status()
              : context_.cancelled() ? DroppedAtShutdown()
                                     : context_.Judge(ToStatus(error, "cudaEventQuery"));
    return true;
  }
  Status status() const override { return status_; }
  const void* data() const override { return slot_->memory + kRecordBytes; }
  std::vector<Status> CheckResults() const override {
    std::vector<Status> results;
    results.reserve(checks_.size());
    const auto* records = reinterpret_cast<const CheckRecord*>(slot_->memory);
    for (size_t i = 0; i < checks_.size(); ++i) results.push_back(checks_[i].Result(records[i]));
    return results;
  }

 private:
  CudaContext& context_;
  StagingSlot* slot_ = nullptr;  // given back once the device no longer writes there
  std::vector<Check> checks_;
  bool copied_ = false;
  Status status_;
};

Status CudaContext::StartFetch(const void* source, size_t bytes, std::unique_ptr<Device::Fetch>* fetch) {
  if (bytes > Fetch::kMostBytes) return {};
  auto started = std::make_unique<Fetch>(*this);
  SAS_TRY(started->Start(source, bytes));
  if (started->started()) *fetch = std::move(started);
  return {};
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
  const CurrentDevice current(ordinal_);
  static_cast<void>(weights_.Drop());
  TrimTo(0);
}

void CudaContext::TrimTo(size_t scratch) {
  const CurrentDevice current(ordinal_);
  const size_t kept = std::min(scratch, scratch_kept_.load());
  // The pool gives back what the stream is done with.
  if (cudaEventRecord(reached_, stream_) == cudaSuccess) static_cast<void>(Await(reached_));
  memory_.Trim(kept);
  scratch_kept_ = kept;
  idle_ = 0;
}

}  // namespace sas::cuda
