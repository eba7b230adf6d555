#include "binding/args.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <functional>
#include <new>
#include <tuple>

#include "binding/anomaly.h"

namespace sas::binding {
namespace {

constexpr double kLargestInteger = 9007199254740991.0;  // Number.MAX_SAFE_INTEGER

}  // namespace

bool Detached(const BufferHandle& handle) {
  if (handle.wrapped == nullptr || handle.buffer->bytes == 0) return false;
  const Napi::HandleScope scope(handle.wrapped->Env());
  void* data = nullptr;
  napi_get_typedarray_info(handle.wrapped->Env(), handle.wrapped->Value(), nullptr, nullptr, &data, nullptr, nullptr);
  return data != handle.buffer->data;
}

DeviceHandle* GetDeviceHandle(Napi::Value value) {
  if (!value.IsExternal()) return nullptr;
  bool ours = false;
  if (napi_check_object_type_tag(value.Env(), value, &DeviceHandle::kTag, &ours) != napi_ok || !ours) return nullptr;
  return value.As<Napi::External<DeviceHandle>>().Data();
}

BufferHandle* GetBufferHandle(Napi::Value value) {
  void* data = nullptr;
  if (value.IsEmpty() || napi_get_value_external(value.Env(), value, &data) != napi_ok) return nullptr;
  return Environment::Of(value.Env()).Has(data) ? static_cast<BufferHandle*>(data) : nullptr;
}

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

void Args::Fail(const std::string& problem, StatusCode code) const {
  throw environment_.MakeError(Status(code, std::string(op_) + ": " + problem));
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

Napi::Array Args::List(const char* name) {
  list_ = name;
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

void* Args::Take(Access access, const Entry& entry, const char* list, DType dtype, ExpectedShape expected,
                 bool log_sum_exp) {
  const BufferHandle& handle = BufferOf(entry.value);
  if (session_ == nullptr) session_ = handle.session;
  if (handle.session != session_ || session_->queue == nullptr) Fail("operands live on different devices");
  if (Detached(handle)) Fail("an operand shares an ArrayBuffer that has been detached");
  if (operands_.empty()) operands_.reserve(info_.Length());
  operands_.push_back({&handle, handle.buffer, access, log_sum_exp, next_ - 1, entry, list});
  const bool fits = binding::Take(handle.shape, expected);
  if (!fits || handle.dtype != dtype) {
    Fail(NameOf(operands_.back()) + " has " + sas::NameOf(handle.dtype) + " " + Describe(handle.shape) + ", expected " +
         sas::NameOf(dtype) + " " + Describe(expected));
  }
  if (handle.buffer->bytes == 0 && allowed_ == Operands::kUsual) Fail("an operand is empty");
  bytes_ += handle.buffer->bytes;
  return handle.buffer->data;
}

std::string Args::NameOf(const Operand& operand) {
  if (operand.list == nullptr) return "argument " + std::to_string(operand.argument);
  const std::string entry = std::string(operand.list) + '[' + std::to_string(operand.entry.index) + ']';
  return operand.entry.role == nullptr ? entry : entry + '.' + operand.entry.role;
}

void Args::CheckAlive() const {
  if (session_->queue == nullptr) Fail("the device is closed");
  for (const Operand& operand : operands_) {
    if (operand.handle->buffer == nullptr) Fail("an operand was released during the call");
    if (Detached(*operand.handle)) Fail("an operand's ArrayBuffer was detached during the call");
  }
}

void Args::CheckOverlaps() {
  const auto begin = [](const Operand& operand) { return static_cast<const char*>(operand.buffer->data); };
  const auto end = [&](const Operand& operand) { return begin(operand) + operand.buffer->bytes; };
  const auto written = [](const Operand& operand) { return operand.access != Access::kRead; };
  std::sort(operands_.begin(), operands_.end(), [&](const Operand& a, const Operand& b) {
    if (begin(a) != begin(b)) return std::less<>()(begin(a), begin(b));
    return std::tie(a.argument, a.entry.index) < std::tie(b.argument, b.entry.index);
  });
  // Of the operands so far, the one that reaches furthest, and of those that are written.
  const Operand *any = nullptr, *any_written = nullptr;
  for (const Operand& operand : operands_) {
    if (operand.buffer->bytes == 0) continue;
    const Operand* other = written(operand) ? any : any_written;
    if (other != nullptr && begin(operand) < end(*other)) {
      const std::string names[] = {NameOf(*other), NameOf(operand)};
      Fail(names[0] + " and " + names[1] + " share memory, and " + names[written(operand)] + " is written",
           StatusCode::kArgument);
    }
    if (any == nullptr || end(operand) > end(*any)) any = &operand;
    if (written(operand) && (any_written == nullptr || end(operand) > end(*any_written))) any_written = &operand;
  }
}

void Args::SubmitTask(std::function<Status()> run, bool small) {
  CheckAlive();
  CheckOverlaps();
  Task task{op_, {}, {}, std::move(run)};
  const auto list_of = [&](Access access) -> std::vector<BufferRef>& {
    return access == Access::kRead ? task.reads : access == Access::kWrite ? task.writes : task.updates;
  };
  for (const Access access : {Access::kRead, Access::kWrite, Access::kUpdate}) {
    const auto count = std::ranges::count(operands_, access, &Operand::access);
    list_of(access).reserve(static_cast<size_t>(count));
  }
  std::vector<Written> results;
  for (Operand& operand : operands_) {
    if (session_->debugging.anomaly && operand.access != Access::kRead) {
      results.push_back({operand.buffer.get(), operand.handle->dtype, operand.handle->shape, operand.log_sum_exp});
    }
    list_of(operand.access).push_back(std::move(operand.buffer));
  }
  if (!results.empty()) {
    task.inspect = [device = session_->device.get(), results = std::move(results)] {
      return FindAnomaly(*device, results);
    };
  }
  session_->queue->Submit(std::move(task), small);
}

}  // namespace sas::binding
