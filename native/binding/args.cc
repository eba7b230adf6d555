#include "binding/args.h"

#include <cmath>

namespace sas::binding {
namespace {

constexpr double kLargestSize = 9007199254740991.0;  // Number.MAX_SAFE_INTEGER

template <class Handle>
Handle* GetHandle(Napi::Value value, HandleKind kind) {
  if (!value.IsExternal()) return nullptr;
  Handle* handle = value.As<Napi::External<Handle>>().Data();
  return handle->kind == kind ? handle : nullptr;
}

}  // namespace

DeviceHandle* GetDeviceHandle(Napi::Value value) { return GetHandle<DeviceHandle>(value, HandleKind::kDevice); }
BufferHandle* GetBufferHandle(Napi::Value value) { return GetHandle<BufferHandle>(value, HandleKind::kBuffer); }

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

int64_t Args::Integer() {
  const double value = Number();
  if (!(std::abs(value) <= kLargestSize) || value != std::floor(value)) {
    Fail("argument " + std::to_string(next_ - 1) + " is not an integer");
  }
  return static_cast<int64_t>(value);
}

int64_t Args::Size() {
  const int64_t value = Integer();
  if (value < 0) Fail("argument " + std::to_string(next_ - 1) + " is negative");
  return value;
}

bool Args::Flag() {
  const Napi::Value value = NextValue();
  if (!value.IsBoolean()) Fail("argument " + std::to_string(next_ - 1) + " is not a boolean");
  return value.As<Napi::Boolean>().Value();
}

DType Args::Type() {
  const int64_t value = Integer();
  if (value < 0 || value > 3) Fail("argument " + std::to_string(next_ - 1) + " is not a dtype");
  return static_cast<DType>(value);
}

Napi::Array Args::List() {
  const Napi::Value value = NextValue();
  if (!value.IsArray()) Fail("argument " + std::to_string(next_ - 1) + " is not an array");
  return value.As<Napi::Array>();
}

void* Args::Operand(Napi::Value value, DType dtype, Shape shape, bool read, bool write) {
  BufferHandle* handle = GetBufferHandle(value);
  if (handle == nullptr || handle->buffer == nullptr) Fail("an operand is not a live buffer");
  if (session_ == nullptr) session_ = handle->session;
  if (handle->session != session_ || session_->queue == nullptr) Fail("operands live on different devices");
  size_t bytes = ItemSize(dtype);
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(size), &bytes)) Fail("a shape overflows");
  }
  if (bytes != handle->buffer->bytes) {
    Fail("an operand has " + std::to_string(handle->buffer->bytes) + " bytes, expected " + std::to_string(bytes));
  }
  bytes_ += bytes;
  if (read) reads_.push_back(handle->buffer);
  if (write) writes_.push_back(handle->buffer);
  return handle->buffer->data;
}

}  // namespace sas::binding
