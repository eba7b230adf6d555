// What one JavaScript environment (the main thread or a worker) owns: its opened devices, the pending promises, and the
// way back from executor threads to JavaScript. Nothing here is shared between environments.
#pragma once

#include <napi.h>

#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "binding/shape.h"
#include "core/buffer.h"
#include "core/device.h"
#include "core/queue.h"

namespace sas::binding {

struct Debugging {
  bool poison = false;   // fresh memory is filled with NaN
  bool anomaly = false;  // what ops write is looked at (FindAnomaly)
};

// An opened device with its memory and its queue.
struct Session {
  Session(std::unique_ptr<Device> opened, size_t memory_limit, const Debugging& debugs)
      : device(std::move(opened)),
        pool(*device, memory_limit),
        queue(std::make_unique<Queue>(*device)),
        debugging(debugs) {
    device->SetReclaim([this, tasks = queue.get()] { pool.Trim(tasks->completed()); });
  }

  bool idle() const { return queue->completed() == queue->submitted() && device->Idle(); }

  std::unique_ptr<Device> device;
  BufferPool pool;
  std::unique_ptr<Queue> queue;  // null once the environment shuts down
  const Debugging debugging;
};

// What the opaque handles of binding.d.ts point to: Externals, as other addons make them too. A tag tells those of
// devices; the environment knows those of buffers, of which a call reads many.
struct DeviceHandle {
  static constexpr napi_type_tag kTag = {0x5c0fd7b41c3f4e1d, 0x9a5be1f27d064c58};
  std::shared_ptr<Session> session;
};
struct BufferHandle {
  std::shared_ptr<Session> session;
  DType dtype = DType::kF32;
  Shape shape;
  BufferRef buffer;                                // null once released
  std::shared_ptr<Napi::ObjectReference> wrapped;  // the caller's typed array, for wrapped memory
};

class Environment {
 public:
  explicit Environment(Napi::Env env);
  ~Environment();
  static Environment& Of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  // Every backend's devices, usable or not.
  std::vector<DeviceInfo> ListDevices(const Settings& settings) const;
  // Opens a device or finds it opened. Throws a JavaScript error.
  std::shared_ptr<Session> OpenDevice(const std::string& id, const Settings& settings, const Debugging& debugging);

  // Memory for a tensor, as BufferPool::Allocate; `idle`: no queued task uses it any more. Where there is none, this
  // thread waits for what queued tasks hold, and fails after kLongestWait.
  Status Allocate(Session& session, size_t bytes, bool idle, Buffer* out);
  static constexpr std::chrono::seconds kLongestWait{10};
  // To be called now and then while this thread waits: once the environment is to end, all work ends early.
  void CancelIfEnding();

  // V8 is to hear that JavaScript objects hold that many bytes more, or fewer, outside of its heap. It is told once per
  // turn of the event loop, of what the turn leaves: finalizers run between turns, so a collection within one would
  // free nothing, and what a scope takes and gives back is no reason for any.
  void CountExternal(int64_t change);

  // The handles of buffers that JavaScript has.
  void Add(const BufferHandle* handle) { buffer_handles_.insert(handle); }
  void Remove(const BufferHandle* handle) noexcept { buffer_handles_.erase(handle); }
  bool Has(const void* handle) const { return buffer_handles_.contains(handle); }

  // Whether an ArrayBuffer, of any realm, may change its length.
  bool IsResizable(Napi::Value array_buffer) const;

  void SetErrorFactory(Napi::Function factory) { error_factory_ = Napi::Persistent(factory); }
  // The error class that belongs to the status.
  Napi::Error MakeError(const Status& status) const;
  void ThrowIfFailed(const Status& status) const {
    if (!status.ok()) throw MakeError(status);
  }

  // What a promise waits for, on the executor thread. Without a status yet it is called again, between tasks.
  using Work = std::function<std::optional<Status>()>;
  // Runs `work` once the queue has completed `ticket`, then settles the promise with the status it gives; `settled`
  // runs on the JavaScript thread just before. The event loop stays alive until then.
  Napi::Promise Await(Session& session, Ticket ticket, Work work, std::function<void()> settled);
  // JavaScript waits, or reads what is there: a time to look at what memory is kept.
  static void CountWait(Session& session);
  // Calls `done` on the JavaScript thread once the queue has completed `ticket`, without keeping the event loop alive.
  void After(Session& session, Ticket ticket, std::function<void()> done);

 private:
  struct Pending {
    Work work;
    std::function<void()> settled;
    std::optional<Napi::Promise::Deferred> promise;
    Status status;
    std::list<Pending>::iterator self = {};
    Pending* next_ready = nullptr;
  };
  using PendingList = std::list<Pending>;

  void Enqueue(Session& session, Ticket ticket, Pending pending);
  void PushReady(Pending* pending);
  Pending* PopReady();
  void Settle();  // JavaScript thread, as the next
  void ReportExternal();
  void Shutdown();  // stops all queues; the environment is about to end

  Status AllocateWaiting(Session& session, size_t bytes, bool idle, Buffer* out);

  const Napi::Env env_;
  std::vector<Backend> backends_;
  std::map<std::string, std::shared_ptr<Session>> sessions_;
  std::unordered_set<const void*> buffer_handles_;
  Napi::FunctionReference error_factory_;
  Napi::FunctionReference is_resizable_;  // the getter of ArrayBuffer.prototype.resizable

  napi_threadsafe_function wake_ = nullptr;
  PendingList pending_;     // JavaScript thread
  size_t promises_ = 0;     // of them with a promise
  int64_t external_ = 0;    // bytes, not reported yet
  bool reporting_ = false;  // whether ReportExternal is about to be called
  std::mutex mutex_;
  // Guarded by mutex_: those whose ticket is completed, in order, linked so that an executor thread needs no memory.
  Pending* first_ready_ = nullptr;
  Pending* last_ready_ = nullptr;
};

}  // namespace sas::binding
