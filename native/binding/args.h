// Reads a call's arguments in order: operands, whose shapes tell the sizes and must fit each other, then plain values.
#pragma once

#include <napi.h>

#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "binding/environment.h"
#include "binding/shape.h"
#include "core/work.h"

namespace sas::binding {

// kUsual: no axis is empty, for kernels divide by sizes, and a dtype that is not stated is a float one.
enum class Operands : bool { kUsual, kAny };

class Args {
 public:
  // An op on operands this small, of no more work than this, takes about 0.1 ms at most.
  static constexpr size_t kInlineBytes = 16 << 10;
  static constexpr double kInlineSteps = 1 << 16;  // core/work.h

  // `op` names the operation in errors; a string literal.
  Args(const Napi::CallbackInfo& info, const char* op, Operands allowed = Operands::kUsual)
      : info_(info), environment_(Environment::Of(info.Env())), op_(op), allowed_(allowed) {}

  // Operands: of that dtype, or of any, which goes into `*dtype`; of a shape whose sizes are those known so far. The
  // pointer is valid on the executor thread, in tasks submitted by this call.
  const void* Read(DType dtype, ExpectedShape shape) { return Take(Access::kRead, dtype, shape); }
  const void* Read(DType* dtype, ExpectedShape shape) { return Read(*dtype = NextType(), shape); }
  void* Write(DType dtype, ExpectedShape shape) { return Take(Access::kWrite, dtype, shape); }
  void* Write(DType* dtype, ExpectedShape shape) { return Write(*dtype = NextType(), shape); }
  const float* ReadFloats(ExpectedShape shape) { return static_cast<const float*>(Read(DType::kF32, shape)); }
  float* WriteFloats(ExpectedShape shape) { return static_cast<float*>(Write(DType::kF32, shape)); }
  const int32_t* ReadInts(ExpectedShape shape) { return static_cast<const int32_t*>(Read(DType::kI32, shape)); }
  // Null stands for an absent operand.
  const void* ReadOptional(DType dtype, ExpectedShape shape) { return SkipNull() ? nullptr : Read(dtype, shape); }
  const float* ReadOptionalFloats(ExpectedShape shape) { return SkipNull() ? nullptr : ReadFloats(shape); }
  float* WriteOptionalFloats(ExpectedShape shape) { return SkipNull() ? nullptr : WriteFloats(shape); }
  // A logSumExp, of which -infinity is no anomaly.
  float* WriteLogSumExp(ExpectedShape shape) {
    return static_cast<float*>(Take(Access::kWrite, DType::kF32, shape, true));
  }
  int32_t* UpdateOptionalInts(ExpectedShape shape) {
    return SkipNull() ? nullptr : static_cast<int32_t*>(Take(Access::kUpdate, DType::kI32, shape));
  }

  // An array argument, `name` in errors, and the f32 operands in it.
  Napi::Array List(const char* name);
  struct Entry {
    Napi::Value value;
    uint32_t index = 0;
    const char* role = nullptr;  // which part of the entry, where it has several
  };
  const float* ReadFloats(const Entry& entry, ExpectedShape shape) { return Floats(Access::kRead, entry, shape); }
  float* WriteFloats(const Entry& entry, ExpectedShape shape) { return Floats(Access::kWrite, entry, shape); }
  float* UpdateFloats(const Entry& entry, ExpectedShape shape) { return Floats(Access::kUpdate, entry, shape); }

  double Number();
  std::optional<double> OptionalNumber();  // or null
  int64_t Integer();
  int64_t Count(Napi::Value value) const;  // a safe integer of at least 0
  bool Flag();

  // Fails unless the arguments fit each other; `rule` says how.
  void Expect(bool fits, const char* rule) const {
    if (!fits) Fail(std::string("expected ") + rule);
  }

  // The dtype of gradients is that of the op, or f32 where the op is fused.
  void ExpectGradientType(DType gradient, DType dtype, bool fused) const {
    Expect(gradient == dtype || (fused && gradient == DType::kF32), "gradients of the op's dtype, or f32 where fused");
  }

  template <class Params>
  void Submit(Operation<Params> Operations::*operation, Params params) {
    if (session_ == nullptr) Fail("no operands");
    Operation<Params> run = session_->device->operations().*operation;
    Context& context = session_->device->context();
    bool small = bytes_ <= kInlineBytes;
    if constexpr (requires { Steps(params); }) small = small && Steps(params) <= kInlineSteps;
    SubmitTask([run, &context, params = std::move(params)] { return run(context, params); }, small);
  }

  [[noreturn]] void Fail(const std::string& problem, StatusCode code = StatusCode::kInternal) const;

 private:
  // What an op does with an operand; kUpdate: reads it, then writes it in place.
  enum class Access : uint8_t { kRead, kWrite, kUpdate };
  struct Operand {
    const BufferHandle* handle;
    BufferRef buffer;
    Access access;
    bool log_sum_exp;
    size_t argument;
    Entry entry;       // where the argument is a list
    const char* list;  // its name, or null
  };

  Napi::Value NextValue();
  int64_t ToInteger(Napi::Value value) const;
  DType NextType() const;
  const BufferHandle& BufferOf(Napi::Value value) const;
  void* Take(Access access, DType dtype, ExpectedShape shape, bool log_sum_exp = false) {
    return Take(access, {NextValue()}, nullptr, dtype, shape, log_sum_exp);
  }
  void* Take(Access access, const Entry& entry, const char* list, DType dtype, ExpectedShape shape, bool log_sum_exp);
  float* Floats(Access access, const Entry& entry, ExpectedShape shape) {
    return static_cast<float*>(Take(access, entry, list_, DType::kF32, shape, false));
  }
  bool SkipNull();
  static std::string NameOf(const Operand& operand);
  // Getters of array arguments are the caller's code: an operand read before one may have been released or detached in
  // it.
  void CheckAlive() const;
  // Refuses an op that writes memory which another of its operands has, too. Sorts operands_.
  void CheckOverlaps();
  void SubmitTask(std::function<Status()> run, bool small);

  const Napi::CallbackInfo& info_;
  Environment& environment_;
  const char* op_;
  Operands allowed_;
  size_t next_ = 0;
  const char* list_ = nullptr;        // the name of the list that was read last
  std::shared_ptr<Session> session_;  // of the operands
  std::vector<Operand> operands_;
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
// The session of a device's handle; fails if it is no such handle or closed.
std::shared_ptr<Session> SessionOf(const Args& args, Napi::Value value);
// Whether the caller's ArrayBuffer behind wrapped memory has gone (`ArrayBuffer.prototype.transfer`, a grown
// WebAssembly memory) and the memory with it, perhaps.
bool Detached(const BufferHandle& handle);

}  // namespace sas::binding
