#include "binding/environment.h"

#include <new>
#include <thread>
#include <utility>

#include "cpu/cpu_backend.h"
#include "cuda/cuda_backend.h"

namespace sas::binding {

Environment::Environment(Napi::Env env) : env_(env), backends_{cuda::GetBackend(), cpu::GetBackend()} {
  const auto settle = [](napi_env open, napi_value, void* context, void*) {
    if (open == nullptr) return;  // a call left over after Shutdown
    try {
      static_cast<Environment*>(context)->Settle();
    } catch (const Napi::Error&) {  // a worker being terminated runs no JavaScript; Shutdown drops what is pending
    }
  };
  const napi_status status = napi_create_threadsafe_function(
      env, nullptr, nullptr, Napi::String::New(env, "sas-attention"), 0, 1, nullptr, nullptr, this, settle, &wake_);
  if (status != napi_ok) throw Napi::Error::New(env, "sas-attention: cannot create a thread-safe function");
  napi_unref_threadsafe_function(env, wake_);
  const auto object = env.Global().Get("Object").As<Napi::Object>();
  const Napi::Value resizable = object.Get("getOwnPropertyDescriptor")
                                    .As<Napi::Function>()
                                    .Call({env.Global().Get("ArrayBuffer").As<Napi::Object>().Get("prototype"),
                                           Napi::String::New(env, "resizable")});
  is_resizable_ = Napi::Persistent(resizable.As<Napi::Object>().Get("get").As<Napi::Function>());
  // Added after the thread-safe function, so that it runs before that function goes away.
  napi_add_env_cleanup_hook(
      env, [](void* self) { static_cast<Environment*>(self)->Shutdown(); }, this);
}

Environment::~Environment() = default;

std::vector<DeviceInfo> Environment::ListDevices(const Settings& settings) const {
  std::vector<DeviceInfo> all;
  for (const Backend& backend : backends_) {
    for (DeviceInfo& info : backend.list(settings)) {
      const auto opened = sessions_.find(info.id);
      all.push_back(opened == sessions_.end() ? std::move(info) : opened->second->device->info());
    }
  }
  return all;
}

std::shared_ptr<Session> Environment::OpenDevice(const std::string& id, const Settings& settings,
                                                 const Debugging& debugging) {
  if (auto found = sessions_.find(id); found != sessions_.end()) return found->second;
  for (const Backend& backend : backends_) {
    for (const DeviceInfo& info : backend.list(settings)) {
      if (info.id != id) continue;
      if (!info.usable()) throw MakeError(Status(StatusCode::kDevice, id + " cannot be used: " + info.reason));
      auto opened = backend.open(id, settings);
      if (auto* status = std::get_if<Status>(&opened)) throw MakeError(*status);
      const size_t limit = settings.memory_limit > 0 ? settings.memory_limit : info.memory_bytes;
      auto session = std::make_shared<Session>(std::move(std::get<std::unique_ptr<Device>>(opened)), limit, debugging);
      sessions_.emplace(id, session);
      return session;
    }
  }
  throw MakeError(Status(StatusCode::kDevice, "no device '" + id + "'"));
}

Status Environment::Allocate(Session& session, size_t bytes, bool idle, Buffer* out) {
  const Ticket completed = session.queue->completed();
  Status status = session.pool.Allocate(bytes, idle ? completed : ~Ticket{0}, completed, out);
  if (status.code() != StatusCode::kOutOfMemory || !session.pool.MayFit(bytes)) return status;
  return AllocateWaiting(session, bytes, idle, out);
}

Status Environment::AllocateWaiting(Session& session, size_t bytes, bool idle, Buffer* out) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + kLongestWait;
  auto next_look = Clock::now();
  while (true) {
    // Read before the try, which then finds all that was given up until here.
    const bool last_try = session.idle();
    if (last_try) session.device->Trim();
    const Ticket completed = session.queue->completed();
    Status status = session.pool.Allocate(bytes, idle ? completed : ~Ticket{0}, completed, out);
    if (status.code() != StatusCode::kOutOfMemory || last_try) return status;
    while (session.queue->completed() == completed && !session.idle()) {
      const auto now = Clock::now();
      if (now > end) {
        return Status(status.code(), status.message() + ", after waiting " + std::to_string(kLongestWait.count()) +
                                         " seconds for queued work to give up memory");
      }
      if (now > next_look) {
        CancelIfEnding();
        next_look = now + std::chrono::milliseconds(50);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
}

bool Environment::IsResizable(Napi::Value array_buffer) const {
  return is_resizable_.Call(array_buffer, {}).ToBoolean();
}

void Environment::CancelIfEnding() {
  const Napi::HandleScope scope(env_);
  napi_value script = nullptr, result = nullptr;
  if (napi_create_string_utf8(env_, "0", 1, &script) == napi_ok && napi_run_script(env_, script, &result) == napi_ok) {
    return;
  }
  for (auto& [id, session] : sessions_) session->device->Cancel();
}

Napi::Error Environment::MakeError(const Status& status) const {
  if (error_factory_.IsEmpty()) return Napi::Error::New(env_, status.message());
  const Napi::Value error = error_factory_.Call(
      {Napi::String::New(env_, CodeName(status.code())), Napi::String::New(env_, status.message())});
  return Napi::Error(env_, error);
}

Napi::Promise Environment::Await(Session& session, Ticket ticket, Work work, std::function<void()> settled) {
  const auto deferred = Napi::Promise::Deferred::New(env_);
  Enqueue(session, ticket, {std::move(work), std::move(settled), deferred, {}});
  if (promises_++ == 0) napi_ref_threadsafe_function(env_, wake_);
  return deferred.Promise();
}

void Environment::CountWait(Session& session) {
  Queue& queue = *session.queue;
  if (!session.pool.EndPeriod(queue.submitted())) return;
  queue.Wait(queue.submitted(), [&pool = session.pool, &queue] {
    pool.Shrink(queue.completed());
    return true;
  });
}

void Environment::After(Session& session, Ticket ticket, std::function<void()> done) {
  Enqueue(session, ticket, {nullptr, std::move(done), std::nullopt, {}});
}

void Environment::Enqueue(Session& session, Ticket ticket, Pending pending) {
  const auto entry = pending_.insert(pending_.end(), std::move(pending));
  entry->self = entry;
  try {
    session.queue->Wait(ticket, [this, pending = &*entry] {
      try {
        if (pending->work) {
          const std::optional<Status> status = pending->work();
          if (!status) return false;
          pending->status = *status;
        }
      } catch (const std::bad_alloc&) {
        pending->status = Status(StatusCode::kOutOfMemory, "out of memory");  // short enough to need none itself
      }
      PushReady(pending);
      napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
      return true;
    });
  } catch (const std::bad_alloc&) {
    pending_.erase(entry);
    throw;
  }
}

void Environment::CountExternal(int64_t change) {
  external_ += change;
  if (external_ == 0 || reporting_) return;
  reporting_ = napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking) == napi_ok;
}

void Environment::ReportExternal() {
  reporting_ = false;
  if (external_ != 0) Napi::MemoryManagement::AdjustExternalMemory(env_, std::exchange(external_, 0));
}

void Environment::PushReady(Pending* pending) {
  std::lock_guard lock(mutex_);
  (last_ready_ == nullptr ? first_ready_ : last_ready_->next_ready) = pending;
  last_ready_ = pending;
}

Environment::Pending* Environment::PopReady() {
  std::lock_guard lock(mutex_);
  Pending* pending = first_ready_;
  if (pending == last_ready_) last_ready_ = nullptr;
  if (pending != nullptr) first_ready_ = pending->next_ready;
  return pending;
}

void Environment::Settle() {
  const Napi::HandleScope scope(env_);
  ReportExternal();
  while (Pending* ready = PopReady()) {
    Pending pending = std::move(*ready);
    pending_.erase(ready->self);
    if (pending.settled) pending.settled();
    if (!pending.promise) continue;
    if (--promises_ == 0) napi_unref_threadsafe_function(env_, wake_);
    if (pending.status.ok()) {
      pending.promise->Resolve(env_.Undefined());
    } else {
      pending.promise->Reject(MakeError(pending.status).Value());
    }
  }
}

void Environment::Shutdown() {
  for (auto& [id, session] : sessions_) session->queue->Stop();
  for (auto& [id, session] : sessions_) session->device->Cancel();
  for (auto& [id, session] : sessions_) session->queue.reset();
  first_ready_ = last_ready_ = nullptr;
  pending_.clear();
  sessions_.clear();
  error_factory_.Reset();
  is_resizable_.Reset();
  napi_release_threadsafe_function(wake_, napi_tsfn_abort);
}

}  // namespace sas::binding
