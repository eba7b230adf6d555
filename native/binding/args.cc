#include "binding/args.h"

#include <cmath>
#include <exception>
#include <new>

namespace sas::binding {
namespace {

constexpr double kLargestInteger = 9007199254740991.0;  // Number.MAX_SAFE_INTEGER

template <class Handle>
Handle* GetHandle(Napi::Value value) {
  if (!value.IsExternal()) return nullptr;
  bool ours = false;  // an External of another addon points to anything
  if (napi_check_object_type_tag(value.Env(), value, &Handle::kTag, &ours) != napi_ok || !ours) return nullptr;
  return value.As<Napi::External<Handle>>().Data();
}

}  // namespace

bool Detached(const BufferHandle& handle) {
  if (handle.wrapped == nullptr || handle.buffer->bytes == 0) return false;
  const Napi::HandleScope scope(handle.wrapped->Env());
  void* data = nullptr;
  napi_get_typedarray_info(handle.wrapped->Env(), handle.wrapped->Value(), nullptr, nullptr, &data, nullptr, nullptr);
  return data != handle.buffer->data;
}

DeviceHandle* GetDeviceHandle(Napi::Value value) { return GetHandle<DeviceHandle>(value); }
BufferHandle* GetBufferHandle(Napi::Value value) { return GetHandle<BufferHandle>(value); }

std::shared_ptr<Session> SessionOf(const Args& args, Napi::Value value) {
  const DeviceHandle* handle = GetDeviceHandle(value);
  if (handle == nullptr || handle->session->queue == nullptr) args.Fail("not an open device");
  return handle->session;
}

void ThrowCurrentException(Napi::Env env) noexcept {
  try {
    const Environment& environment = Environment::Of(env);
    try {
      throw;
    } catch (const Napi::Error&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw environment.MakeError(Status(StatusCode::kOutOfMemory, "out of memory"));  // short: needs none itself
    } catch (const std::exception& error) {
      throw environment.MakeError(Status(StatusCode::kInternal, error.what()));
    }
  } catch (const Napi::Error& error) {
    error.ThrowAsJavaScriptException();
  } catch (...) {  // out of memory again, while the message was made
    napi_throw_error(env, CodeName(StatusCode::kOutOfMemory), "out of memory");
  }
}

void Args::Fail(const std::string& problem) const {
  throw environment_.MakeError(Status(StatusCode::kInternal, std::string(op_) + ": " + problem));
}

Napi::Value Args::NextValue() { return info_[next_++]; }

bool Args::SkipNull() {
  if (!info_[next_].IsNull()) return false;
  ++next_;
  return true;
}

double Args::Number() {
  const Napi::Value value = NextValue();
  if (!value.IsNumber()) Fail("argument " + std::to_string(next_ - 1) + " is not a number");
  return value.As<Napi::Number>().DoubleValue();
}

std::optional<double> Args::OptionalNumber() { return SkipNull() ? std::nullopt : std::optional<double>(Number()); }

int64_t Args::ToInteger(Napi::Value value) const {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(std::abs(number) <= kLargestInteger) || number != std::floor(number)) Fail("a number is not an integer");
  return static_cast<int64_t>(number);
}

int64_t Args::Integer() { return ToInteger(NextValue()); }

int64_t Args::Count(Napi::Value value) const {
  const int64_t count = ToInteger(value);
  if (count < 0) Fail("a number is negative");
  return count;
}

bool Args::Flag() {
  const Napi::Value value = NextValue();
  if (!value.IsBoolean()) Fail("argument " + std::to_string(next_ - 1) + " is not a boolean");
  return value.As<Napi::Boolean>().Value();
}

Napi::Array Args::List() {
  const Napi::Value value = NextValue();
  if (!value.IsArray()) Fail("argument " + std::to_string(next_ - 1) + " is not an array");
  return value.As<Napi::Array>();
}

const BufferHandle& Args::BufferOf(Napi::Value value) const {
  const BufferHandle* handle = GetBufferHandle(value);
  if (handle == nullptr || handle->buffer == nullptr) Fail("an operand is not a live buffer");
  return *handle;
}

DType Args::NextType() const {
  const DType dtype = BufferOf(info_[next_]).dtype;
  if (dtype == DType::kI32 && allowed_ == Operands::kUsual)
    Fail("argument " + std::to_string(next_) + " has i32, expected a float dtype");
  return dtype;
}

void* Args::Operand(Napi::Value value, DType dtype, ExpectedShape expected, bool read, bool write) {
  const BufferHandle& handle = BufferOf(value);
  if (session_ == nullptr) session_ = handle.session;
  if (handle.session != session_ || session_->queue == nullptr) Fail("operands live on different devices");
  if (Detached(handle)) Fail("an operand shares an ArrayBuffer that has been detached");
  const bool fits = Take(handle.shape, expected);
  if (!fits || handle.dtype != dtype) {
    Fail("argument " + std::to_string(next_ - 1) + " has " + NameOf(handle.dtype) + " " + Describe(handle.shape) +
         ", expected " + NameOf(dtype) + " " + Describe(expected));
  }
  if (handle.buffer->bytes == 0 && allowed_ == Operands::kUsual) Fail("an operand is empty");
  bytes_ += handle.buffer->bytes;
  if (handle.wrapped != nullptr) wrapped_.push_back(handle);
  if (read) reads_.push_back(handle.buffer);
  if (write) writes_.push_back(handle.buffer);
  return handle.buffer->data;
}

void Args::CheckAlive() const {
  if (session_ == nullptr) Fail("no operands");
  if (session_->queue == nullptr) Fail("the device is closed");
  for (const BufferHandle& handle : wrapped_) {
    if (Detached(handle)) Fail("an operand's ArrayBuffer was detached during the call");
  }
  for (const auto* operands : {&reads_, &writes_}) {
    for (const BufferRef& buffer : *operands) {
      if (buffer->owners == 0) Fail("an operand was released during the call");
    }
  }
}

}  // namespace sas::binding
