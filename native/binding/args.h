// Reads a call's arguments in order: plain sizes, then buffers whose byte length must be that of the stated shape.
#pragma once

#include <napi.h>

#include <initializer_list>
#include <string>
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

  int64_t Size();  // a non-negative safe integer
  int64_t Integer();
  double Number();
  bool Flag();
  DType Type();

  // Operands. The pointer is valid on the executor thread, in tasks submitted by this call.
  const void* Read(DType dtype, Shape shape) { return Next(dtype, shape, true, false); }
  void* Write(DType dtype, Shape shape) { return Next(dtype, shape, false, true); }
  const float* ReadFloats(Shape shape) { return static_cast<const float*>(Read(DType::kF32, shape)); }
  float* WriteFloats(Shape shape) { return static_cast<float*>(Write(DType::kF32, shape)); }
  const int32_t* ReadInts(Shape shape) { return static_cast<const int32_t*>(Read(DType::kI32, shape)); }
  // Null stands for an absent operand.
  const float* ReadOptionalFloats(Shape shape) { return SkipNull() ? nullptr : ReadFloats(shape); }
  float* WriteOptionalFloats(Shape shape) { return SkipNull() ? nullptr : WriteFloats(shape); }

  // An array argument and the operands in it.
  Napi::Array List();
  float* Operand(Napi::Value handle, int64_t size, bool read, bool write) {
    return static_cast<float*>(Operand(handle, DType::kF32, {size}, read, write));
  }
  void* Operand(Napi::Value handle, DType dtype, Shape shape, bool read, bool write);

  template <class Params>
  void Submit(Operation<Params> Operations::*operation, Params params) {
    Operation<Params> run = session_->device->operations().*operation;
    Context& context = session_->device->context();
    session_->queue->Submit({op_, std::move(reads_), std::move(writes_),
                             [run, &context, params = std::move(params)] { return run(context, params); }},
                            bytes_ <= kBriefBytes);
  }

  [[noreturn]] void Fail(const std::string& problem) const;

 private:
  Napi::Value NextValue();
  void* Next(DType dtype, Shape shape, bool read, bool write) {
    return Operand(NextValue(), dtype, shape, read, write);
  }
  bool SkipNull();

  const Napi::CallbackInfo& info_;
  Environment& environment_;
  const char* op_;
  size_t next_ = 0;
  std::shared_ptr<Session> session_;  // of the operands
  std::vector<BufferRef> reads_, writes_;
  size_t bytes_ = 0;  // of all operands
};

// The struct behind a handle, or null if the value is no such handle.
DeviceHandle* GetDeviceHandle(Napi::Value value);
BufferHandle* GetBufferHandle(Napi::Value value);

}  // namespace sas::binding
