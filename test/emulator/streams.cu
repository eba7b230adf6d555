// Does the emulator find faults in host code? Programs that use streams, events, pools and pinned memory, each with
// faults planted one at a time. Each is run once under the process's seed; a call failed or the result is wrong.
// Expects SAS_EMULATOR_MEMORY=4194304.
#include <array>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "trials.h"

namespace sas::emulator {
namespace {

constexpr int kRounds = 24;  // what one round may hide, all do not
constexpr int kCount = 1000, kThreads = 128;
constexpr size_t kBytes = kCount * sizeof(float);

// What a program does on any failure: it ends.
struct Failed : std::runtime_error {
  using std::runtime_error::runtime_error;
};
void Check(cudaError_t error) {
  if (error != cudaSuccess) throw Failed(Describe(error));
}
void Expect(bool condition, const std::string& what) {
  if (!condition) throw Failed("wrong result: " + what);
}

// x [count] = a x + b
void ScaleKernel(int count, float* x, float a, float b) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) x[i] = a * x[i] + b;
}
void Scale(float* x, float a, float b, cudaStream_t stream) {
  const cudaLaunchConfig_t config{dim3((kCount + kThreads - 1) / kThreads), dim3(kThreads), 0, stream};
  Check(cudaLaunchKernelEx(&config, ScaleKernel, kCount, x, a, b));
}

// y [count] = x
void MoveKernel(int count, const float* x, float* y) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) y[i] = x[i];
}
void Move(const float* x, float* y, cudaStream_t stream) {
  const cudaLaunchConfig_t config{dim3((kCount + kThreads - 1) / kThreads), dim3(kThreads), 0, stream};
  Check(cudaLaunchKernelEx(&config, MoveKernel, kCount, x, y));
}

// x [at] = 1
void StoreKernel(int at, float* x) {
  if (threadIdx.x == 0) x[at] = 1;
}
void Store(float* x, int at, cudaStream_t stream) {
  const cudaLaunchConfig_t config{dim3(1), dim3(32), 0, stream};
  Check(cudaLaunchKernelEx(&config, StoreKernel, at, x));
}

// Handles that end with their scope, whatever is still queued.
struct Stream {
  cudaStream_t stream = nullptr;
  Stream() { Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)); }
  ~Stream() { static_cast<void>(cudaStreamDestroy(stream)); }
  Stream(const Stream&) = delete;
  operator cudaStream_t() const { return stream; }
};
struct Event {
  cudaEvent_t event = nullptr;
  Event() { Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming)); }
  ~Event() { static_cast<void>(cudaEventDestroy(event)); }
  Event(const Event&) = delete;
  operator cudaEvent_t() const { return event; }
};
float* Allocate(cudaStream_t stream) {
  void* data = nullptr;
  Check(cudaMallocAsync(&data, kBytes, stream));
  return static_cast<float*>(data);
}
float* AllocatePinned(size_t bytes = kBytes) {
  void* data = nullptr;
  Check(cudaMallocHost(&data, bytes));
  return static_cast<float*>(data);
}
void Upload(float* target, const float* source, cudaStream_t stream) {
  Check(cudaMemcpyAsync(target, source, kBytes, cudaMemcpyHostToDevice, stream));
}
void Download(float* target, const float* source, cudaStream_t stream) {
  Check(cudaMemcpyAsync(target, source, kBytes, cudaMemcpyDeviceToHost, stream));
}
void Await(cudaEvent_t event) {
  cudaError_t error = cudaErrorNotReady;
  while ((error = cudaEventQuery(event)) == cudaErrorNotReady) static_cast<void>(cudaGetLastError());
  Check(error);
}
void ExpectAll(const float* values, float expected, const char* what) {
  for (int i = 0; i < kCount; ++i) Expect(values[i] == expected, what);
}

// ---- copies through two halves of pinned memory, in turn

enum class StagingFault {
  kNone,
  kReadEarly,
  kWrittenEarly,
  kRecordedBefore,
  kNotRecorded,
  kFreedInUse,
};

void Staging(StagingFault fault) {
  constexpr int kChunks = 6;
  const Stream stream;
  std::array<float*, 2> staging{AllocatePinned(), AllocatePinned()};
  const std::array<Event, 2> done;
  std::array<float*, kChunks> device{};
  for (float*& data : device) data = Allocate(stream);

  for (int chunk = 0; chunk < kChunks; ++chunk) {
    float* const half = staging[chunk % 2];
    if (fault != StagingFault::kWrittenEarly) Await(done[chunk % 2]);
    std::fill_n(half, kCount, static_cast<float>(chunk));
    if (fault == StagingFault::kRecordedBefore) Check(cudaEventRecord(done[chunk % 2], stream));
    Upload(device[chunk], half, stream);
    if (fault != StagingFault::kRecordedBefore) Check(cudaEventRecord(done[chunk % 2], stream));
    Scale(device[chunk], 2, 1, stream);
  }
  for (int chunk = 0; chunk <= kChunks; ++chunk) {
    if (chunk < kChunks) {
      Await(done[chunk % 2]);
      Download(staging[chunk % 2], device[chunk], stream);
      if (fault != StagingFault::kNotRecorded) Check(cudaEventRecord(done[chunk % 2], stream));
    }
    if (chunk == 0) continue;
    const int last = (chunk - 1) % 2;
    if (fault != StagingFault::kReadEarly) Await(done[last]);
    if (fault == StagingFault::kFreedInUse && chunk == kChunks - 1) {
      Check(cudaFreeHost(staging[chunk % 2]));  // the last chunk is on its way there
      Check(cudaStreamSynchronize(stream));
    }
    ExpectAll(staging[last], static_cast<float>(2 * (chunk - 1) + 1), "a chunk that was read");
  }
  for (float* data : device) Check(cudaFreeAsync(data, stream));
  Check(cudaStreamSynchronize(stream));
  for (float* half : staging) Check(cudaFreeHost(half));
}

// ---- one stream makes what another one uses

enum class OrderFault {
  kNone,
  kNoWait,
  kWaitBeforeRecord,
  kRecordedEarly,
  kRecordedAgain,
  kFreedInUse,
  kUsedBeforeAllocation,
  kAllocationReadEarly,
};

void Order(OrderFault fault) {
  const Stream maker, user;
  const Event made, used;
  float* const host = AllocatePinned();
  float* const x = Allocate(maker);
  float* y = Allocate(user);
  if (fault == OrderFault::kUsedBeforeAllocation) Check(cudaMemsetAsync(x, 0, kBytes, user));

  if (fault == OrderFault::kWaitBeforeRecord) Check(cudaStreamWaitEvent(user, made));
  if (fault == OrderFault::kRecordedEarly) Check(cudaEventRecord(made, maker));
  Check(cudaMemsetAsync(x, 0, kBytes, maker));
  Scale(x, 1, 3, maker);
  if (fault != OrderFault::kRecordedEarly) Check(cudaEventRecord(made, maker));
  if (fault == OrderFault::kRecordedAgain) Check(cudaEventRecord(made, user));  // the latest record counts
  if (fault != OrderFault::kNoWait && fault != OrderFault::kWaitBeforeRecord) Check(cudaStreamWaitEvent(user, made));
  Move(x, y, user);
  Check(cudaEventRecord(used, user));

  if (fault != OrderFault::kFreedInUse) Check(cudaStreamWaitEvent(maker, used));
  if (fault == OrderFault::kAllocationReadEarly) {  // the same memory perhaps, on the stream that does not wait
    static_cast<void>(cudaFreeAsync(y, maker));
    y = Allocate(maker);
  }
  Check(cudaFreeAsync(x, maker));
  Download(host, y, user);
  Check(cudaFreeAsync(y, user));
  Check(cudaStreamSynchronize(user));
  ExpectAll(host, 3, "what the other stream made");
  Check(cudaDeviceSynchronize());
  Check(cudaFreeHost(host));
}

// ---- the lives of memory, streams and events

enum class LifeFault {
  kNone,
  kReadAfterFree,
  kCopiedAfterFree,
  kWrittenAfterFree,
  kFreedTwice,
  kPinnedFreedTwice,
  kCopyPastEnd,
  kStreamGone,
  kEventGone,
  kNotWaited,
  kErrorIgnored,
};

void Lives(LifeFault fault) {
  float* const source = AllocatePinned();
  float* const host = AllocatePinned();
  std::fill_n(source, kCount, 5.0f);
  const Event reached;
  {
    const Stream stream;
    const Event passing;
    float* const x = Allocate(stream);
    float* const y = Allocate(stream);
    Upload(x, source, stream);
    Move(x, y, stream);
    if (fault == LifeFault::kErrorIgnored) {
      Store(x, kCount + 4, stream);
      static_cast<void>(cudaStreamSynchronize(stream));
      static_cast<void>(cudaGetLastError());  // as if that made it good
    }
    Check(cudaFreeAsync(x, stream));
    if (fault == LifeFault::kReadAfterFree) Move(x, y, stream);
    if (fault == LifeFault::kWrittenAfterFree) Store(x, 4, stream);
    if (fault == LifeFault::kFreedTwice) Check(cudaFreeAsync(x, stream));
    if (fault == LifeFault::kCopiedAfterFree) {
      Download(host, x, stream);
    } else if (fault == LifeFault::kCopyPastEnd) {
      Check(cudaMemcpyAsync(y + 8, source, kBytes, cudaMemcpyHostToDevice, stream));
    } else {
      Download(host, y, stream);
    }
    Check(cudaEventRecord(passing, stream));
    Check(cudaEventRecord(reached, stream));
    Check(cudaFreeAsync(y, stream));
    if (fault == LifeFault::kStreamGone) {
      Check(cudaStreamDestroy(stream.stream));
      Check(cudaStreamSynchronize(stream));
    }
    if (fault == LifeFault::kEventGone) {
      Check(cudaEventDestroy(passing.event));
      Check(cudaEventSynchronize(passing));
    }
  }
  // Both are gone, with work queued: it is done all the same.
  if (fault != LifeFault::kNotWaited) Await(reached);
  ExpectAll(host, 5, "what a stream did after its handle was destroyed");
  Check(cudaDeviceSynchronize());
  Check(cudaFreeHost(source));
  Check(cudaFreeHost(host));
  if (fault == LifeFault::kPinnedFreedTwice) Check(cudaFreeHost(host));
}

// ---- pools within the device's 4 MB, 64 units

enum class PoolFault {
  kNone,
  kNotTrimmed,
  kFreeNotReached,
  kPastItsSize,
  kDestroyedUsed,
};

cudaMemPool_t CreatePool(size_t most, uint64_t keep = ~uint64_t{0}) {
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, 0};
  properties.maxSize = most;
  cudaMemPool_t pool = nullptr;
  Check(cudaMemPoolCreate(&pool, &properties));
  Check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  return pool;
}
void* TakeFrom(cudaMemPool_t pool, size_t bytes, cudaStream_t stream) {
  void* data = nullptr;
  Check(cudaMallocFromPoolAsync(&data, bytes, pool, stream));
  return data;
}
void ExpectHeld(cudaMemPool_t pool, size_t used, size_t reserved) {
  uint64_t value = 0;
  Check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &value));
  Expect(value == used, "bytes in use");
  Check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &value));
  Expect(value == reserved, "bytes reserved");
}

void Pool(PoolFault fault) {
  constexpr size_t kUnit = size_t{64} << 10;
  const Stream first, second;
  const cudaMemPool_t pool = CreatePool(0), other = CreatePool(fault == PoolFault::kPastItsSize ? 16 * kUnit : 0);
  void* data = TakeFrom(pool, 48 * kUnit, first);
  ExpectHeld(pool, 48 * kUnit, 48 * kUnit);
  Check(cudaFreeAsync(data, first));
  data = TakeFrom(pool, 40 * kUnit, first);  // at once: in order after the free
  ExpectHeld(pool, 40 * kUnit, 48 * kUnit);
  Check(cudaFreeAsync(data, first));
  if (fault != PoolFault::kFreeNotReached) Check(cudaStreamSynchronize(first));
  data = TakeFrom(pool, 32 * kUnit, second);
  Check(cudaFreeAsync(data, second));
  Check(cudaDeviceSynchronize());
  ExpectHeld(pool, 0, 48 * kUnit);
  if (fault != PoolFault::kNotTrimmed) Check(cudaMemPoolTrimTo(pool, kUnit));
  data = TakeFrom(other, 32 * kUnit, first);
  size_t free = 0, total = 0;
  Check(cudaMemGetInfo(&free, &total));
  Expect(total == 64 * kUnit && free == 31 * kUnit, "free memory of the device");
  Check(cudaMemPoolDestroy(other));  // with its last allocation
  if (fault == PoolFault::kDestroyedUsed) TakeFrom(other, kUnit, first);
  Check(cudaFreeAsync(data, first));
  Check(cudaDeviceSynchronize());
  Check(cudaMemGetInfo(&free, &total));
  Expect(free == 63 * kUnit, "what a destroyed pool gave back");
  const cudaMemPool_t frugal = CreatePool(0, 3 * kUnit);
  void* const parts[] = {TakeFrom(frugal, 4 * kUnit, first), TakeFrom(frugal, 2 * kUnit, first)};
  Check(cudaFreeAsync(parts[0], first));
  ExpectHeld(frugal, 2 * kUnit, 6 * kUnit);
  Check(cudaStreamSynchronize(first));  // gives back what is beyond the threshold
  ExpectHeld(frugal, 2 * kUnit, 3 * kUnit);
  Check(cudaFreeAsync(parts[1], first));
  Check(cudaMemPoolDestroy(frugal));
  Check(cudaMemPoolDestroy(pool));
}

// ---- the default stream keeps the order with blocking streams

enum class DefaultFault {
  kNone,
  kNonBlocking,
  kTwoBlocking,
};

void Default(DefaultFault fault) {
  std::array<cudaStream_t, 2> streams{};
  const unsigned flags = fault == DefaultFault::kNonBlocking ? cudaStreamNonBlocking : cudaStreamDefault;
  for (cudaStream_t& stream : streams) Check(cudaStreamCreateWithFlags(&stream, flags));
  float* const host = AllocatePinned();
  float* const x = Allocate(nullptr);
  Check(cudaMemsetAsync(x, 0, kBytes, streams[0]));
  Scale(x, 1, 1, fault == DefaultFault::kTwoBlocking ? streams[1] : nullptr);
  Scale(x, 3, 0, streams[0]);
  Download(host, x, nullptr);
  Check(cudaStreamSynchronize(nullptr));
  ExpectAll(host, 3, "what streams did in turns");
  Check(cudaFreeAsync(x, nullptr));
  for (const cudaStream_t stream : streams) Check(cudaStreamDestroy(stream));
  Check(cudaDeviceSynchronize());
  Check(cudaFreeHost(host));
}

// ---- one thread gives work, another one asks whether the stream is idle

void Threads() {
  const Stream stream;
  std::atomic<bool> ending{false};
  std::atomic<cudaError_t> seen{cudaSuccess};
  std::thread asking([&] {
    while (!ending) {
      const cudaError_t error = cudaStreamQuery(stream);
      if (error != cudaSuccess && error != cudaErrorNotReady) seen = error;
    }
  });
  float* const host = AllocatePinned();
  float* const x = Allocate(stream);
  Check(cudaMemsetAsync(x, 0, kBytes, stream));
  for (int i = 0; i < 50; ++i) Scale(x, 1, 1, stream);
  Download(host, x, stream);
  cudaError_t error = cudaErrorNotReady;
  while ((error = cudaStreamQuery(stream)) == cudaErrorNotReady) {
  }
  ending = true;
  asking.join();
  Check(error);
  Check(seen);
  ExpectAll(host, 50, "the sum of all kernels");
  Check(cudaFreeAsync(x, stream));
  Check(cudaStreamSynchronize(stream));
  Check(cudaFreeHost(host));
}

// ---- the table

template <class Program, class... Plan>
void Run(const char* name, const char* text, Program program, Plan... fault) {
  Try(name, text, [&]() -> std::string {
    try {
      for (int round = 0; round < kRounds; ++round) program(fault...);
    } catch (const Failed& failure) {
      return failure.what();
    }
    return "";
  });
}

void RunAll() {
  const auto staging = [](const char* text, StagingFault fault) { Run("staging", text, Staging, fault); };
  staging("none", StagingFault::kNone);
  staging("staging memory read before the copy into it was waited for", StagingFault::kReadEarly);
  staging("staging memory written to while a copy from it is queued", StagingFault::kWrittenEarly);
  staging("the event recorded before the copy", StagingFault::kRecordedBefore);
  staging("the event not recorded again after the copy", StagingFault::kNotRecorded);
  staging("staging memory freed while a copy into it is queued", StagingFault::kFreedInUse);

  const auto order = [](const char* text, OrderFault fault) { Run("two streams", text, Order, fault); };
  order("none", OrderFault::kNone);
  order("no cudaStreamWaitEvent", OrderFault::kNoWait);
  order("the event waited for before it is recorded", OrderFault::kWaitBeforeRecord);
  order("the event recorded before the work", OrderFault::kRecordedEarly);
  order("the event recorded again on another stream before the wait", OrderFault::kRecordedAgain);
  order("memory freed while another stream uses it", OrderFault::kFreedInUse);
  order("memory used by a stream that does not wait for its allocation", OrderFault::kUsedBeforeAllocation);
  order("memory allocated anew on one stream, read on another", OrderFault::kAllocationReadEarly);

  const auto lives = [](const char* text, LifeFault fault) { Run("lives", text, Lives, fault); };
  lives("none", LifeFault::kNone);
  lives("device memory read by a kernel after it was freed", LifeFault::kReadAfterFree);
  lives("device memory copied after it was freed", LifeFault::kCopiedAfterFree);
  lives("device memory written to by a kernel after it was freed", LifeFault::kWrittenAfterFree);
  lives("device memory freed twice", LifeFault::kFreedTwice);
  lives("pinned memory freed twice", LifeFault::kPinnedFreedTwice);
  lives("a copy past the end of device memory", LifeFault::kCopyPastEnd);
  lives("a stream used after it was destroyed", LifeFault::kStreamGone);
  lives("an event used after it was destroyed", LifeFault::kEventGone);
  lives("a result read that nobody waited for", LifeFault::kNotWaited);
  lives("the failure of a kernel ignored", LifeFault::kErrorIgnored);

  const auto pools = [](const char* text, PoolFault fault) { Run("pools", text, Pool, fault); };
  pools("none", PoolFault::kNone);
  pools("a pool that holds what another one needs is not trimmed", PoolFault::kNotTrimmed);
  pools("memory allocated that another stream has yet to free", PoolFault::kFreeNotReached);
  pools("more taken from a pool than its largest size", PoolFault::kPastItsSize);
  pools("a pool used after it was destroyed", PoolFault::kDestroyedUsed);

  const auto defaults = [](const char* text, DefaultFault fault) { Run("default stream", text, Default, fault); };
  defaults("none", DefaultFault::kNone);
  defaults("streams that do not keep its order", DefaultFault::kNonBlocking);
  defaults("order expected between two blocking streams", DefaultFault::kTwoBlocking);

  Run("two threads", "none", Threads);
}

}  // namespace
}  // namespace sas::emulator

int main() { sas::emulator::RunAll(); }
