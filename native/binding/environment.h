// What one JavaScript environment (the main thread or a worker) owns: its opened devices, the pending promises, and the
// way back from executor threads to JavaScript. Nothing here is shared between environments.
#pragma once

#include <napi.h>

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "binding/shape.h"
#include "core/buffer.h"
#include "core/device.h"
#include "core/queue.h"

namespace sas::binding {

// An opened device with its memory and its queue.
struct Session {
  Session(std::unique_ptr<Device> opened, size_t memory_limit)
      : device(std::move(opened)), pool(*device, memory_limit), queue(std::make_unique<Queue>(*device)) {}

  std::unique_ptr<Device> device;
  BufferPool pool;
  std::unique_ptr<Queue> queue;  // null once the environment shuts down
  bool find_anomalies = false;
};

// What the opaque handles of binding.d.ts point to. The first member tells them apart.
enum class HandleKind : uint32_t { kDevice = 0x53415344, kBuffer = 0x53415342 };
struct DeviceHandle {
  HandleKind kind = HandleKind::kDevice;
  std::shared_ptr<Session> session;
};
struct BufferHandle {
  HandleKind kind = HandleKind::kBuffer;
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
  std::vector<DeviceInfo> ListDevices() const;
  // Opens a device or finds it opened. Throws a JavaScript error.
  std::shared_ptr<Session> OpenDevice(const std::string& id);

  void SetErrorFactory(Napi::Function factory) { error_factory_ = Napi::Persistent(factory); }
  // The error class that belongs to the status.
  Napi::Error MakeError(const Status& status) const;
  void ThrowIfFailed(const Status& status) const {
    if (!status.ok()) throw MakeError(status);
  }

  // Runs `work` on the executor thread once the queue has completed `ticket`, then settles the promise with the status
  // it gives; `settled` runs on the JavaScript thread just before. The event loop stays alive until then.
  Napi::Promise Await(Session& session, Ticket ticket, std::function<Status()> work, std::function<void()> settled);
  // Calls `done` on the JavaScript thread once the queue has completed `ticket`, without keeping the event loop alive.
  void After(Session& session, Ticket ticket, std::function<void()> done);

 private:
  struct Pending {
    std::function<Status()> work;
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
  void Settle();    // JavaScript thread
  void Shutdown();  // stops all queues; the environment is about to end

  const Napi::Env env_;
  std::vector<Backend> backends_;
  std::map<std::string, std::shared_ptr<Session>> sessions_;
  Napi::FunctionReference error_factory_;

  napi_threadsafe_function wake_ = nullptr;
  PendingList pending_;  // JavaScript thread
  size_t promises_ = 0;  // of them with a promise
  std::mutex mutex_;
  // Guarded by mutex_: those whose ticket is completed, in order, linked so that an executor thread needs no memory.
  Pending* first_ready_ = nullptr;
  Pending* last_ready_ = nullptr;
};

}  // namespace sas::binding
