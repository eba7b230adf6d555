// Reads a call's arguments in order: plain sizes, then buffers whose byte length must be that of the stated shape.
#pragma once

#include <napi.h>

#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "binding/environment.h"

namespace sas::binding {

using Shape = std::initializer_list<int64_t>;

class Args {
 public:
  // An op on operands this small takes microseconds, whatever it computes.
  static constexpr size_t kBriefBytes = 16 << 10;

  // `op` names the operation in errors; a string literal.
  Args(const Napi::CallbackInfo& info, const char* op)
      : info_(info), environment_(Environment::Of(info.Env())), op_(op) {}

  void Skip() { ++next_; }
  int64_t Size();   // of an operand, a safe integer of at least 1: no kernel is asked to divide by an empty axis
  int64_t Count();  // a safe integer of at least 0
  int64_t Integer();
  double Number();
  bool Flag();
  DType Type();
  DType FloatType();
  // Of gradients: `dtype`, or f32 if `widened` allows it.
  DType GradientType(DType dtype, bool widened);
  // Fails unless the sizes fit each other; `rule` says how.
  void Expect(bool fits, const char* rule) const {
    if (!fits) Fail(std::string("expected ") + rule);
  }

  // Operands. The pointer is valid on the executor thread, in tasks submitted by this call.
  const void* Read(DType dtype, Shape shape) { return Next(dtype, shape, true, false); }
  void* Write(DType dtype, Shape shape) { return Next(dtype, shape, false, true); }
  const float* ReadFloats(Shape shape) { return static_cast<const float*>(Read(DType::kF32, shape)); }
  float* WriteFloats(Shape shape) { return static_cast<float*>(Write(DType::kF32, shape)); }
  const int32_t* ReadInts(Shape shape) { return static_cast<const int32_t*>(Read(DType::kI32, shape)); }
  // Null stands for an absent operand.
  const float* ReadOptionalFloats(Shape shape) { return SkipNull() ? nullptr : ReadFloats(shape); }
  float* WriteOptionalFloats(Shape shape) { return SkipNull() ? nullptr : WriteFloats(shape); }

  // An array argument, and the sizes and operands in it.
  Napi::Array List();
  int64_t SizeOf(Napi::Value value);
  float* Operand(Napi::Value handle, Shape shape, bool read, bool write) {
    return static_cast<float*>(Operand(handle, DType::kF32, shape, read, write));
  }
  void* Operand(Napi::Value handle, DType dtype, Shape shape, bool read, bool write);

  template <class Params>
  void Submit(Operation<Params> Operations::*operation, Params params) {
    CheckAlive();
    Operation<Params> run = session_->device->operations().*operation;
    Context& context = session_->device->context();
    session_->queue->Submit({op_, std::move(reads_), std::move(writes_),
                             [run, &context, params = std::move(params)] { return run(context, params); }},
                            bytes_ <= kBriefBytes);
  }

  [[noreturn]] void Fail(const std::string& problem) const;

 private:
  Napi::Value NextValue();
  int64_t ToInteger(Napi::Value value);
  void* Next(DType dtype, Shape shape, bool read, bool write) {
    return Operand(NextValue(), dtype, shape, read, write);
  }
  bool SkipNull();
  // Getters of array arguments are the caller's code: an operand read before one may have been released in it.
  void CheckAlive() const;

  const Napi::CallbackInfo& info_;
  Environment& environment_;
  const char* op_;
  size_t next_ = 0;
  std::shared_ptr<Session> session_;  // of the operands
  std::vector<BufferRef> reads_, writes_;
  size_t bytes_ = 0;  // of all operands
};

// Throws the JavaScript error that belongs to the exception in flight: past N-API it would end the process.
void ThrowCurrentException(Napi::Env env) noexcept;

// A function of the binding as N-API calls it.
template <auto kFunction>
napi_value Call(napi_env env, napi_callback_info raw) noexcept {
  try {
    const Napi::CallbackInfo info(env, raw);
    if constexpr (std::is_void_v<decltype(kFunction(info))>) {
      kFunction(info);
    } else {
      return kFunction(info);
    }
  } catch (...) {
    ThrowCurrentException(env);
  }
  return nullptr;  // undefined
}

template <auto kFunction>
void Export(Napi::Object exports, const char* name) {
  napi_value function = nullptr;
  napi_create_function(exports.Env(), name, NAPI_AUTO_LENGTH, Call<kFunction>, nullptr, &function);
  exports[name] = Napi::Value(exports.Env(), function);
}

// The struct behind a handle, or null if the value is no such handle.
DeviceHandle* GetDeviceHandle(Napi::Value value);
BufferHandle* GetBufferHandle(Napi::Value value);
// Whether the caller's ArrayBuffer behind wrapped memory has gone (`ArrayBuffer.prototype.transfer`, a grown
// WebAssembly memory) and the memory with it, perhaps.
bool Detached(const BufferHandle& handle);

}  // namespace sas::binding
