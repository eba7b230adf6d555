#include "binding/memory.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <new>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "binding/host_array.h"
#include "core/convert.h"

namespace sas::binding {
namespace {

using Info = const Napi::CallbackInfo&;

BufferHandle& BufferOf(const Args& args, Napi::Value value) {
  BufferHandle* handle = GetBufferHandle(value);
  if (handle == nullptr || handle->buffer == nullptr || handle->session->queue == nullptr) {
    args.Fail("not a live buffer");
  }
  if (Detached(*handle)) args.Fail("the buffer shares an ArrayBuffer that has been detached");
  return *handle;
}

// What a new buffer is to hold.
struct Content {
  size_t bytes() const { return static_cast<size_t>(shape.elements()) * ItemSize(dtype); }

  DType dtype;
  Shape shape;
};

// Reading a shape may run the caller's code, which may release a buffer or detach an array: it comes first.
Shape ShapeOf(const Args& args, Napi::Value value) {
  constexpr int64_t kMaxElements = int64_t{1} << 50;
  if (!value.IsArray()) args.Fail("not a shape");
  const auto list = value.As<Napi::Array>();
  const uint32_t rank = list.Length();
  if (rank > Shape::kMaxRank) args.Fail("a shape has more than " + std::to_string(Shape::kMaxRank) + " sizes");
  Shape shape;
  int64_t elements = 1;
  for (uint32_t i = 0; i < rank; ++i) {
    const int64_t size = args.Count(list[i]);
    if (__builtin_mul_overflow(elements, std::max<int64_t>(size, 1), &elements) || elements > kMaxElements) {
      args.Fail("a shape is too large");
    }
    shape.sizes[shape.rank++] = size;
  }
  return shape;
}
Content ContentOf(const Args& args, Napi::Value dtype, Napi::Value shape) {
  const int64_t code = args.Count(dtype);
  if (code > static_cast<int64_t>(DType::kI32)) args.Fail("not a dtype");
  return {static_cast<DType>(code), ShapeOf(args, shape)};
}

void ExpectContent(const Args& args, const HostArray& array, DType dtype, const Shape& shape) {
  if (!array.Holds(dtype)) args.Fail(std::string("the array is not of the kind that holds ") + NameOf(dtype));
  if (static_cast<int64_t>(array.size) != shape.elements()) {
    args.Fail("the array has " + std::to_string(array.size) + " elements, expected those of " + Describe(shape));
  }
}

// Gives up a handle's share of its buffer; the last one returns the memory.
void Release(Napi::Env env, BufferHandle& handle) {
  if (handle.buffer == nullptr) return;
  const BufferRef buffer = std::move(handle.buffer);
  const auto wrapped = std::move(handle.wrapped);
  handle.buffer = nullptr;
  if (--buffer->owners > 0) return;
  Session& session = *handle.session;
  if (wrapped == nullptr) {
    session.pool.Free(*buffer);
    if (session.queue != nullptr) Environment::Of(env).CountExternal(-static_cast<int64_t>(buffer->bytes));
    return;
  }
  if (session.queue != nullptr && session.queue->completed() < buffer->last_use) {
    // Queued work still uses the caller's memory: it stays alive until that is done.
    try {
      Environment::Of(env).After(session, buffer->last_use,
                                 [wrapped, buffer, session = handle.session] { session->pool.Disown(buffer->bytes); });
      return;
    } catch (const std::bad_alloc&) {
      while (session.queue->completed() < buffer->last_use) std::this_thread::yield();
    }
  }
  session.pool.Disown(buffer->bytes);
}

// A handle that a function makes: it owns its buffer from the start and gives it up if the function throws.
class NewHandle {
 public:
  NewHandle(Napi::Env env, std::shared_ptr<Session> session, DType dtype, const Shape& shape) : env_(env) {
    auto handle = std::make_unique<BufferHandle>();
    handle->session = std::move(session);
    handle->dtype = dtype;
    handle->shape = shape;
    value_ = Napi::External<BufferHandle>::New(env, handle.get(), [](Napi::Env finalizer_env, BufferHandle* raw) {
      const std::unique_ptr<BufferHandle> owned(raw);
      if (owned->session->queue != nullptr) Environment::Of(finalizer_env).Remove(raw);
      Release(finalizer_env, *owned);
    });
    handle_ = handle.release();  // the finalizer owns it now
    Environment::Of(env).Add(handle_);
  }
  ~NewHandle() {
    if (handle_ != nullptr) Release(env_, *handle_);
  }
  NewHandle(NewHandle&& other) noexcept
      : env_(other.env_), handle_(std::exchange(other.handle_, nullptr)), value_(other.value_) {}
  NewHandle(const NewHandle&) = delete;
  NewHandle& operator=(const NewHandle&) = delete;

  // Fresh memory; `idle`: that no queued task uses any more.
  const BufferRef& Allocate(size_t bytes, bool idle) {
    auto buffer = std::make_shared<Buffer>();
    Environment& environment = Environment::Of(env_);
    environment.ThrowIfFailed(environment.Allocate(*handle_->session, bytes, idle, buffer.get()));
    environment.CountExternal(static_cast<int64_t>(bytes));
    return Adopt(std::move(buffer), nullptr);
  }
  // Becomes one of the owners of the buffer.
  const BufferRef& Adopt(BufferRef buffer, std::shared_ptr<Napi::ObjectReference> wrapped) {
    ++buffer->owners;
    handle_->buffer = std::move(buffer);
    handle_->wrapped = std::move(wrapped);
    return handle_->buffer;
  }
  Napi::Value value() const { return value_; }
  Napi::Value Keep() {
    handle_ = nullptr;
    return value_;
  }

 private:
  Napi::Env env_;
  BufferHandle* handle_ = nullptr;
  Napi::Value value_;
};

Napi::Value Allocate(Info info) {
  Args args(info, "allocate");
  const auto session = SessionOf(args, info[0]);
  if (!info[1].IsArray() || !info[2].IsArray()) args.Fail("not lists of dtypes and shapes");
  const auto dtypes = info[1].As<Napi::Array>(), shapes = info[2].As<Napi::Array>();
  const uint32_t count = dtypes.Length();
  if (shapes.Length() != count) args.Fail("not as many shapes as dtypes");
  std::vector<Content> contents;
  contents.reserve(count);
  for (uint32_t i = 0; i < count; ++i) contents.push_back(ContentOf(args, dtypes[i], shapes[i]));
  if (session->queue == nullptr) args.Fail("the device is closed");

  std::vector<NewHandle> handles;
  handles.reserve(count);
  for (const Content& content : contents) {
    NewHandle& handle = handles.emplace_back(info.Env(), session, content.dtype, content.shape);
    const BufferRef& buffer = handle.Allocate(content.bytes(), false);
    if (!session->debugging.poison) continue;
    session->queue->Submit(
        {"poison", {}, {buffer}, [device = session->device.get(), data = buffer->data, bytes = buffer->bytes] {
           return device->Poison(data, bytes);
         }});
  }
  const Napi::Array made = Napi::Array::New(info.Env(), count);
  for (uint32_t i = 0; i < count; ++i) made.Set(i, handles[i].value());
  for (NewHandle& handle : handles) handle.Keep();
  return made;
}

// Copies host bytes into a buffer in order with the queue.
void SubmitWrite(Session& session, const char* name, const BufferRef& buffer, const HostArray& source) {
  auto staged = std::make_shared<std::vector<char>>(static_cast<const char*>(source.data),
                                                    static_cast<const char*>(source.data) + source.bytes);
  session.queue->Submit({name, {}, {buffer}, [device = session.device.get(), data = buffer->data, staged] {
                           return device->CopyToDevice(data, staged->data(), staged->size());
                         }});
}

Napi::Value Upload(Info info) {
  Args args(info, "upload");
  const Content content = ContentOf(args, info[1], info[2]);
  const auto session = SessionOf(args, info[0]);
  const HostArray source = HostArrayOf(args, info[3]);
  ExpectContent(args, source, content.dtype, content.shape);
  const bool direct = session->device->HostAccessible();
  NewHandle handle(info.Env(), session, content.dtype, content.shape);
  const BufferRef& buffer = handle.Allocate(source.bytes, direct);
  if (direct) {
    if (source.bytes > 0) memcpy(buffer->data, source.data, source.bytes);
  } else {
    SubmitWrite(*session, "upload", buffer, source);
  }
  return handle.Keep();
}

Napi::Value Wrap(Info info) {
  Args args(info, "wrap");
  const Content content = ContentOf(args, info[1], info[2]);
  const auto session = SessionOf(args, info[0]);
  if (!session->device->HostAccessible()) args.Fail("only host memory can be wrapped");
  const HostArray source = HostArrayOf(args, info[3]);
  ExpectContent(args, source, content.dtype, content.shape);
  ExpectFixed(args, source);
  auto buffer = std::make_shared<Buffer>();
  buffer->data = source.data;
  buffer->bytes = source.bytes;
  auto array = std::make_shared<Napi::ObjectReference>(Napi::Persistent(source.array.As<Napi::Object>()));
  NewHandle handle(info.Env(), session, content.dtype, content.shape);
  session->pool.Own(source.bytes, session->queue->completed());
  handle.Adopt(std::move(buffer), std::move(array));
  return handle.Keep();
}

Napi::Value Transfer(Info info) {
  Args args(info, "transfer");
  const BufferHandle& handle = BufferOf(args, info[0]);
  const auto session = SessionOf(args, info[1]);
  const BufferRef source = handle.buffer;
  const size_t bytes = source->bytes;
  NewHandle copy(info.Env(), session, handle.dtype, handle.shape);
  const BufferRef& target = copy.Allocate(bytes, false);

  // Host memory, taken when the source is there; `outcome` hands it from one executor thread to the other.
  auto staged = std::make_shared<std::unique_ptr<char[]>>();
  Task to_host{"Tensor.to", {source}, {}, [device = handle.session->device.get(), data = source->data, bytes, staged] {
                 *staged = std::make_unique_for_overwrite<char[]>(bytes);
                 return device->CopyToHost(staged->get(), data, bytes);
               }};
  Task to_device{"Tensor.to", {}, {target}, [device = session->device.get(), data = target->data, bytes, staged] {
                   return device->CopyToDevice(data, staged->get(), bytes);
                 }};
  to_device.after = to_host.outcome.emplace().get_future();
  handle.session->queue->Submit(std::move(to_host));
  session->queue->Submit(std::move(to_device));
  return copy.Keep();
}

Napi::Value Share(Info info) {
  Args args(info, "share");
  const Shape shape = ShapeOf(args, info[1]);
  const BufferHandle& handle = BufferOf(args, info[0]);
  if (shape.elements() != handle.shape.elements()) args.Fail("the view has another number of elements");
  NewHandle second(info.Env(), handle.session, handle.dtype, shape);
  second.Adopt(handle.buffer, handle.wrapped);
  return second.Keep();
}

// All of the list are buffers, or none is released. Takes no memory, so that it does not fail where there is none.
void ReleaseBuffers(Info info) {
  if (!info[0].IsArray()) Args(info, "release").Fail("not a list of buffers");
  const auto list = info[0].As<Napi::Array>();
  const uint32_t count = list.Length();
  for (uint32_t i = 0; i < count; ++i) {
    if (GetBufferHandle(list[i]) == nullptr) Args(info, "release").Fail("not a buffer");
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (BufferHandle* handle = GetBufferHandle(list[i]); handle != nullptr) Release(info.Env(), *handle);
  }
}

Napi::Value Write(Info info) {
  Args args(info, "write");
  const BufferHandle& handle = BufferOf(args, info[0]);
  const HostArray source = HostArrayOf(args, info[1]);
  ExpectContent(args, source, handle.dtype, handle.shape);
  SubmitWrite(*handle.session, "copyFrom", handle.buffer, source);
  return info.Env().Undefined();
}

template <class T>
void Widen(const void* source, float* target, size_t size) {
  for (size_t i = 0; i < size; ++i) target[i] = ToFloat(static_cast<const T*>(source)[i]);
}

// Copies the elements of `buffer` to host memory, widened to f32 if `widen`.
class Readout {
 public:
  Readout(Session& session, const BufferHandle& handle, void* target, bool widen)
      : device_(*session.device),
        queue_(*session.queue),
        buffer_(*handle.buffer),
        dtype_(handle.dtype),
        target_(target),
        widen_(widen) {}

  // The status, once it is known; until then the device copies, and this is to be called again.
  std::optional<Status> operator()() {
    if (fetch_ != nullptr) return Finish();
    if (Status status = queue_.FailureOf(buffer_); !status.ok() || buffer_.bytes == 0) return status;
    if (device_.HostAccessible()) return Take(buffer_.data);
    std::unique_ptr<Device::Fetch> fetch;
    if (Status status = device_.StartFetch(buffer_.data, buffer_.bytes, &fetch); !status.ok()) return status;
    if (fetch == nullptr) return Copy();
    fetch_ = std::move(fetch);
    checks_ = queue_.OpenChecksOf(buffer_);
    return std::nullopt;
  }

 private:
  std::optional<Status> Finish() {
    if (!fetch_->Done()) return std::nullopt;
    const auto fetch = std::move(fetch_);  // goes here, on the executor thread
    if (!fetch->status().ok()) return fetch->status();
    if (Status failure = Queue::FailureOf(checks_, fetch->CheckResults()); !failure.ok()) return failure;
    return Take(fetch->data());
  }

  // Waits for the device, and learns what that tells of the operations that wrote the buffer.
  Status Copy() {
    std::vector<char> staged(widen_ ? buffer_.bytes : 0);
    void* const to = widen_ ? staged.data() : target_;
    const Status status = device_.CopyToHost(to, buffer_.data, buffer_.bytes);
    queue_.CollectCheckResults();
    if (!status.ok()) return status;
    if (Status failure = queue_.FailureOf(buffer_); !failure.ok()) return failure;
    return widen_ ? Take(staged.data()) : Status();
  }

  Status Take(const void* source) {
    if (!widen_) {
      memcpy(target_, source, buffer_.bytes);
    } else if (dtype_ == DType::kBF16) {
      Widen<BFloat16>(source, static_cast<float*>(target_), buffer_.bytes / 2);
    } else {
      Widen<Float16>(source, static_cast<float*>(target_), buffer_.bytes / 2);
    }
    return {};
  }

  Device& device_;
  Queue& queue_;
  const Buffer& buffer_;
  DType dtype_;
  void* target_;
  bool widen_;
  std::shared_ptr<Device::Fetch> fetch_;  // while it is under way
  Queue::OpenChecks checks_;              // of what it copies
};

// The operands of read and readSync: what is copied, and where to.
struct Reading {
  Reading(const Args& args, Info info)
      : handle(BufferOf(args, info[0])),
        target(HostArrayOf(args, info[1])),
        widen(target.Holds(DType::kF32) && ItemSize(handle.dtype) == 2) {
    ExpectContent(args, target, widen ? DType::kF32 : handle.dtype, handle.shape);
  }

  // Whether the JavaScript thread may copy now.
  bool ready() const {
    return handle.session->device->HostAccessible() && handle.buffer->last_write <= handle.session->queue->completed();
  }
  // What copies, here or on the executor thread.
  Readout copy() const { return {*handle.session, handle, target.data, widen}; }

  const BufferHandle& handle;
  HostArray target;
  bool widen;
};

Napi::Value Read(Info info) {
  constexpr size_t kCopyAtOnce = 64 << 10;  // bytes; a copy this small (microseconds) does not disturb the event loop
  const Reading reading(Args(info, "read"), info);
  Environment::CountWait(*reading.handle.session);
  Environment& environment = Environment::Of(info.Env());
  if (reading.ready() && reading.target.bytes <= kCopyAtOnce) {
    environment.ThrowIfFailed(*reading.copy()());
    return info.Env().Undefined();
  }
  ExpectFixed(Args(info, "read"), reading.target);
  // The promise owns a share of the buffer and keeps the target alive.
  auto array = std::make_shared<Napi::ObjectReference>(Napi::Persistent(reading.target.array.As<Napi::Object>()));
  auto owner = std::make_shared<BufferHandle>(reading.handle);
  ++owner->buffer->owners;
  try {
    return environment.Await(*owner->session, owner->buffer->last_write, reading.copy(),
                             [owner, array, env = info.Env()] { Release(env, *owner); });
  } catch (...) {
    Release(info.Env(), *owner);
    throw;
  }
}

Napi::Value ReadSync(Info info) {
  const Reading reading(Args(info, "readSync"), info);
  Environment::CountWait(*reading.handle.session);
  Status status;
  if (reading.ready()) {
    status = *reading.copy()();
  } else {
    // The queue lives on: only this thread, which waits, could stop it. The executor thread shares the promise, as it
    // may still be inside set_value when this one goes on. What copying throws is thrown here.
    const auto copied = std::make_shared<std::promise<Status>>();
    reading.handle.session->queue->Wait(reading.handle.buffer->last_write, [copied, copy = reading.copy()]() mutable {
      try {
        const std::optional<Status> outcome = copy();
        if (!outcome) return false;
        copied->set_value(*outcome);
      } catch (const std::bad_alloc&) {
        copied->set_exception(std::current_exception());
      }
      return true;
    });
    std::future<Status> result = copied->get_future();
    while (result.wait_for(std::chrono::milliseconds(50)) != std::future_status::ready) {
      Environment::Of(info.Env()).CancelIfEnding();
    }
    status = result.get();
  }
  Environment::Of(info.Env()).ThrowIfFailed(status);
  return info.Env().Undefined();
}

}  // namespace

void ExportMemory(Napi::Object exports) {
  Export<Allocate>(exports, "allocate");
  Export<Upload>(exports, "upload");
  Export<Wrap>(exports, "wrap");
  Export<Transfer>(exports, "transfer");
  Export<Share>(exports, "share");
  Export<ReleaseBuffers>(exports, "release");
  Export<Write>(exports, "write");
  Export<Read>(exports, "read");
  Export<ReadSync>(exports, "readSync");
}

}  // namespace sas::binding
