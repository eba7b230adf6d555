#include "streams.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "immortal.h"
#include "pools.h"
#include "stream_hook.h"

namespace sas::emulator {
namespace {

using Clock = std::chrono::steady_clock;

// What host memory holds until the device has written to it. As accesses.cc.
constexpr int kPending = 0xc2;
// A call that would make a stream longer does some of its work first.
constexpr size_t kLongestStream = 1024;

// One record of an event.
struct Marker {
  cudaStream_t stream;  // while not done
  bool done = false;
  Clock::time_point time = {};
};
using MarkerRef = std::shared_ptr<Marker>;

// A piece of work, a wait or a record.
struct Item {
  Work work = nullptr;
  HostUse host = {};
  MarkerRef waits_for = nullptr, marks = nullptr;
};

}  // namespace
}  // namespace sas::emulator

using namespace sas::emulator;

struct CUstream_st : StreamHook {
  std::deque<Item> items;
  bool blocking = false;  // in order with the default stream
  bool destroyed = false;
};
struct CUevent_st {
  MarkerRef latest;  // null: never recorded
  bool timing = true;
};

namespace sas::emulator {
namespace {

bool Done(const MarkerRef& marker) { return marker == nullptr || marker->done; }

class Streams {
 public:
  Streams();

  cudaStream_t Create(bool blocking);
  bool Destroy(cudaStream_t stream);
  bool Known(cudaStream_t stream);
  cudaEvent_t CreateEvent(bool timing);
  bool Destroy(cudaEvent_t event);

  cudaError_t Enqueue(cudaStream_t stream, Work work, const HostUse& host);
  cudaError_t Record(cudaEvent_t event, cudaStream_t stream);
  cudaError_t WaitFor(cudaStream_t stream, cudaEvent_t event);

  cudaError_t Query(cudaStream_t stream);
  cudaError_t Query(cudaEvent_t event);
  cudaError_t Finish(cudaStream_t stream);
  cudaError_t Finish(cudaEvent_t event);
  cudaError_t FinishAll();
  cudaError_t Elapsed(cudaEvent_t start, cudaEvent_t stop, float* milliseconds);
  void Reset();

 private:
  using Lock = std::unique_lock<std::mutex>;

  // A stream by its handle; null: there is none, or no longer.
  cudaStream_t Resolve(cudaStream_t stream);
  bool Known(cudaEvent_t event) const { return events_.contains(event); }
  bool Empty() const;
  bool Runnable(cudaStream_t stream) const { return !stream->items.empty() && Done(stream->items.front().waits_for); }
  MarkerRef Mark(cudaStream_t stream);
  void KeepOrder(cudaStream_t stream);
  void Push(Lock& lock, cudaStream_t stream, Item item);
  void Advance(Lock& lock, cudaStream_t stream);
  cudaStream_t Any();
  static cudaStream_t NeededBy(cudaStream_t stream);
  void RunOne(Lock& lock, cudaStream_t stream);
  void Drop();
  void EraseDestroyed();
  template <class IsDone>
  cudaError_t Wait(Lock& lock, cudaStream_t stream, const IsDone& is_done);
  template <class IsDone>
  cudaError_t Poll(Lock& lock, cudaStream_t stream, const IsDone& is_done);

  const bool now_, held_;
  std::mutex mutex_;  // guards all that follows
  std::condition_variable ran_;
  bool running_ = false;  // a piece of work, on some thread
  std::mt19937_64 random_;
  uint64_t haste_ = 0;  // one call in so many does some work; 0: none
  std::map<cudaStream_t, std::unique_ptr<CUstream_st>> streams_;
  std::map<cudaEvent_t, std::unique_ptr<CUevent_st>> events_;
  cudaStream_t default_ = nullptr;
};

Streams& TheStreams() {
  static Streams& streams = MakeImmortal<Streams>();
  return streams;
}

cudaError_t NotAStream() {
  return SetFailure(cudaErrorInvalidResourceHandle, "not a stream, or one that was destroyed");
}
cudaError_t NotAnEvent() {
  return SetFailure(cudaErrorInvalidResourceHandle, "not an event, or one that was destroyed");
}
cudaError_t Outcome() { return Lost() == cudaSuccess ? cudaSuccess : SetFailure(Lost()); }

bool StreamsAre(const char* mode) {
  const char* setting = std::getenv("SAS_EMULATOR_STREAMS");
  return setting != nullptr && std::string(setting) == mode;
}

Streams::Streams() : now_(StreamsAre("now")), held_(StreamsAre("held")), random_(Seed() + 1) {
  default_ = Create(true);
}

// ---- handles

cudaStream_t Streams::Create(bool blocking) {
  auto stream = std::make_unique<CUstream_st>();
  stream->enqueue = [](StreamHook* hook, std::function<void()> work) {
    static_cast<void>(sas::emulator::Enqueue(static_cast<cudaStream_t>(hook), [work = std::move(work)]() -> Fault {
      work();
      return {};
    }));
  };
  stream->blocking = blocking;
  const cudaStream_t handle = stream.get();
  const Lock lock(mutex_);
  streams_[handle] = std::move(stream);
  return handle;
}

cudaStream_t Streams::Resolve(cudaStream_t stream) {
  if (stream == nullptr) return default_;
  return streams_.contains(stream) && !stream->destroyed ? stream : nullptr;
}
bool Streams::Known(cudaStream_t stream) {
  const Lock lock(mutex_);
  return Resolve(stream) != nullptr;
}

// What is queued is done all the same.
bool Streams::Destroy(cudaStream_t stream) {
  const Lock lock(mutex_);
  if (stream == nullptr || Resolve(stream) == nullptr) return false;
  stream->destroyed = true;
  EraseDestroyed();
  return true;
}
void Streams::EraseDestroyed() {
  if (running_) return;
  std::erase_if(streams_, [](const auto& each) { return each.second->destroyed && each.second->items.empty(); });
}

cudaEvent_t Streams::CreateEvent(bool timing) {
  auto event = std::make_unique<CUevent_st>();
  event->timing = timing;
  const cudaEvent_t handle = event.get();
  const Lock lock(mutex_);
  events_[handle] = std::move(event);
  return handle;
}
// Its record, and what waits for that, stay.
bool Streams::Destroy(cudaEvent_t event) {
  const Lock lock(mutex_);
  return events_.erase(event) == 1;
}

// ---- giving work

cudaError_t Streams::Enqueue(cudaStream_t handle, Work work, const HostUse& host) {
  Lock lock(mutex_);
  const cudaStream_t stream = Resolve(handle);
  if (stream == nullptr) return NotAStream();
  if (host.writes && !now_) {
    // What reads the memory before it may still do so.
    const bool read = std::ranges::any_of(streams_, [&](const auto& each) {
      return std::ranges::any_of(each.second->items, [&](const Item& item) {
        return !item.host.writes && item.host.range.Overlaps(host.range);
      });
    });
    auto* const begin = const_cast<unsigned char*>(host.range.begin);
    if (!read) memset(begin, kPending, static_cast<size_t>(host.range.end - begin));
  }
  Push(lock, stream, {std::move(work), host});
  return Outcome();
}

// A record at the end of the stream.
MarkerRef Streams::Mark(cudaStream_t stream) {
  if (!stream->items.empty() && stream->items.back().marks != nullptr) return stream->items.back().marks;
  auto marker = std::make_shared<Marker>(stream);
  stream->items.push_back({.marks = marker});
  return marker;
}

// The default stream comes after what blocking streams were given before, and they after it.
void Streams::KeepOrder(cudaStream_t stream) {
  if (!stream->blocking) return;
  for (const auto& [other, owned] : streams_) {
    if (other == stream || !other->blocking || (stream != default_ && other != default_)) continue;
    if (!other->items.empty()) stream->items.push_back({.waits_for = Mark(other)});
  }
}

void Streams::Push(Lock& lock, cudaStream_t stream, Item item) {
  KeepOrder(stream);
  stream->items.push_back(std::move(item));
  Advance(lock, stream);
}

// A call that gives work to `stream` may be the one in which something is done.
void Streams::Advance(Lock& lock, cudaStream_t stream) {
  if (now_) {
    static_cast<void>(Wait(lock, nullptr, [this] { return Empty(); }));
  } else if (stream->items.size() > kLongestStream) {
    static_cast<void>(Wait(lock, stream, [stream] { return stream->items.size() <= kLongestStream / 2; }));
  } else if (!held_ && !running_ && haste_ != 0 && random_() % haste_ == 0) {
    for (uint64_t count = 1 + random_() % 4; count > 0 && !Empty() && !running_; --count) RunOne(lock, Any());
  }
}

cudaError_t Streams::Record(cudaEvent_t event, cudaStream_t handle) {
  Lock lock(mutex_);
  const cudaStream_t stream = Resolve(handle);
  if (!Known(event)) return NotAnEvent();
  if (stream == nullptr) return NotAStream();
  auto marker = std::make_shared<Marker>(stream);
  event->latest = marker;
  Push(lock, stream, {.marks = marker});
  return Outcome();
}

cudaError_t Streams::WaitFor(cudaStream_t handle, cudaEvent_t event) {
  Lock lock(mutex_);
  const cudaStream_t stream = Resolve(handle);
  if (!Known(event)) return NotAnEvent();
  if (stream == nullptr) return NotAStream();
  if (!Done(event->latest)) Push(lock, stream, {.waits_for = event->latest});
  return Outcome();
}

// ---- doing it

bool Streams::Empty() const {
  return std::ranges::all_of(streams_, [](const auto& each) { return each.second->items.empty(); });
}

// A stream that can go on. If any has work, one can: what an item waits for was given before it.
cudaStream_t Streams::Any() {
  std::vector<cudaStream_t> runnable;
  for (const auto& [stream, owned] : streams_) {
    if (Runnable(stream)) runnable.push_back(stream);
  }
  return runnable[random_() % runnable.size()];
}

// The stream that must go on so that `stream` can.
cudaStream_t Streams::NeededBy(cudaStream_t stream) {
  while (!Done(stream->items.front().waits_for)) stream = stream->items.front().waits_for->stream;
  return stream;
}

void Streams::RunOne(Lock& lock, cudaStream_t stream) {
  Item& item = stream->items.front();
  Fault fault;
  if (item.work != nullptr) {
    const Work work = std::move(item.work);
    running_ = true;
    lock.unlock();
    try {
      fault = work();
    } catch (const std::bad_alloc&) {
      fault = {cudaErrorLaunchFailure, "the emulator is out of memory"};
    }
    lock.lock();
    running_ = false;
  }
  if (item.marks != nullptr) {
    item.marks->done = true;
    item.marks->time = Clock::now();
  }
  stream->items.pop_front();
  if (!fault.ok()) {
    Lose({fault.error, fault.text + " (SAS_EMULATOR_SEED=" + std::to_string(Seed()) + ")"});
    Drop();
  }
  EraseDestroyed();
  // Sometimes the device keeps up with the host, mostly it does not.
  if (Empty()) {
    constexpr uint64_t kHaste[] = {0, 0, 16, 2};
    haste_ = kHaste[random_() % 4];
  }
  ran_.notify_all();
}

void Streams::Drop() {
  for (auto& [stream, owned] : streams_) stream->items.clear();
}

// ---- waiting

template <class IsDone>
cudaError_t Streams::Wait(Lock& lock, cudaStream_t stream, const IsDone& is_done) {
  // Other streams go on meanwhile, or none that need not.
  const bool only_needed = stream != nullptr && random_() % 2 == 0;
  while (Lost() == cudaSuccess && !is_done()) {
    if (running_) {
      ran_.wait(lock);
    } else {
      RunOne(lock, only_needed ? NeededBy(stream) : Any());
    }
  }
  return Outcome();
}

// Queries make no progress, some, or all that is asked for. No query waits for another thread.
template <class IsDone>
cudaError_t Streams::Poll(Lock& lock, cudaStream_t stream, const IsDone& is_done) {
  if (Lost() == cudaSuccess && !held_ && !is_done() && !running_) {
    const uint64_t draw = random_() % 4;
    if (draw >= 2) {
      static_cast<void>(Wait(lock, stream, is_done));
    } else if (draw == 1) {
      for (uint64_t count = 1 + random_() % 3; count > 0 && !Empty() && !running_; --count) RunOne(lock, Any());
    }
  }
  if (Lost() != cudaSuccess) return Outcome();
  return is_done() ? cudaSuccess : SetFailure(cudaErrorNotReady);
}

cudaError_t Streams::Query(cudaStream_t handle) {
  Lock lock(mutex_);
  const cudaStream_t stream = Resolve(handle);
  if (stream == nullptr) return NotAStream();
  if (stream->items.empty()) return Outcome();
  const MarkerRef end = Mark(stream);
  return Poll(lock, stream, [&] { return end->done; });
}
cudaError_t Streams::Query(cudaEvent_t event) {
  Lock lock(mutex_);
  if (!Known(event)) return NotAnEvent();
  const MarkerRef marker = event->latest;
  if (marker == nullptr) return Outcome();
  return Poll(lock, marker->stream, [&] { return marker->done; });
}
cudaError_t Streams::Finish(cudaStream_t handle) {
  Lock lock(mutex_);
  const cudaStream_t stream = Resolve(handle);
  if (stream == nullptr) return NotAStream();
  if (stream->items.empty()) return Outcome();
  const MarkerRef end = Mark(stream);
  return Wait(lock, stream, [&] { return end->done; });
}
cudaError_t Streams::Finish(cudaEvent_t event) {
  Lock lock(mutex_);
  if (!Known(event)) return NotAnEvent();
  const MarkerRef marker = event->latest;
  if (marker == nullptr) return Outcome();
  return Wait(lock, marker->stream, [&] { return marker->done; });
}
cudaError_t Streams::FinishAll() {
  Lock lock(mutex_);
  return Wait(lock, nullptr, [this] { return Empty(); });
}

cudaError_t Streams::Elapsed(cudaEvent_t start, cudaEvent_t stop, float* milliseconds) {
  const Lock lock(mutex_);
  if (!Known(start) || !Known(stop)) return NotAnEvent();
  if (!start->timing || !stop->timing || start->latest == nullptr || stop->latest == nullptr) {
    return SetFailure(cudaErrorInvalidResourceHandle, "events without time, or never recorded");
  }
  if (!start->latest->done || !stop->latest->done) return SetFailure(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(stop->latest->time - start->latest->time).count();
  return cudaSuccess;
}

void Streams::Reset() {
  const Lock lock(mutex_);
  Drop();
  EraseDestroyed();
  for (auto& [event, owned] : events_) owned->latest = nullptr;
}

}  // namespace

bool IsStream(cudaStream_t stream) { return TheStreams().Known(stream); }
cudaError_t Enqueue(cudaStream_t stream, Work work, HostUse host) {
  return TheStreams().Enqueue(stream, std::move(work), host);
}
cudaError_t Finish(cudaStream_t stream) { return TheStreams().Finish(stream); }
void Reset() {
  TheStreams().Reset();
  ResetPools();
  ForgetLoss();
}

}  // namespace sas::emulator

#define SAS_BEGIN() \
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  SAS_BEGIN();
  *stream = TheStreams().Create((flags & cudaStreamNonBlocking) == 0);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  SAS_BEGIN();
  return TheStreams().Destroy(stream) ? cudaSuccess : NotAStream();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  SAS_BEGIN();
  return TheStreams().Query(stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  SAS_BEGIN();
  const cudaError_t result = TheStreams().Finish(stream);
  ReleaseBeyondThresholds();
  return result;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  SAS_BEGIN();
  return TheStreams().WaitFor(stream, event);
}
cudaError_t cudaDeviceSynchronize() {
  SAS_BEGIN();
  const cudaError_t result = TheStreams().FinishAll();
  ReleaseBeyondThresholds();
  return result;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  SAS_BEGIN();
  *event = TheStreams().CreateEvent((flags & cudaEventDisableTiming) == 0);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  SAS_BEGIN();
  *event = TheStreams().CreateEvent(true);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  SAS_BEGIN();
  return TheStreams().Destroy(event) ? cudaSuccess : NotAnEvent();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  SAS_BEGIN();
  return TheStreams().Record(event, stream);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  SAS_BEGIN();
  return TheStreams().Query(event);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  SAS_BEGIN();
  const cudaError_t result = TheStreams().Finish(event);
  ReleaseBeyondThresholds();
  return result;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
  SAS_BEGIN();
  return TheStreams().Elapsed(start, stop, milliseconds);
}
