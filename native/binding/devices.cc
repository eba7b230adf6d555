#include <memory>

#include "binding/args.h"
#include "binding/host_array.h"
#include "binding/memory.h"
#include "cpu/isa.h"

namespace sas::binding {
namespace {

using Info = const Napi::CallbackInfo&;

Napi::Value SetErrorFactory(Info info) {
  Args args(info, "setErrorFactory");
  if (!info[0].IsFunction()) args.Fail("not a function");
  Environment::Of(info.Env()).SetErrorFactory(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

// The settings that the caller has read from its environment variables; one that is not there has its default.
struct OpenSettings : Settings {
  Debugging debugging;
};
OpenSettings SettingsOf(const Args& args, Napi::Value value) {
  OpenSettings settings;
  if (value.IsUndefined()) return settings;
  if (!value.IsObject()) args.Fail("not an object of settings");
  const auto object = value.As<Napi::Object>();
  const auto number = [&](const char* name, int64_t most) {
    const Napi::Value given = object.Get(name);
    const int64_t count = given.IsUndefined() ? 0 : args.Count(given);
    if (count > most) args.Fail(std::string(name) + " is too large");
    return count;
  };
  const auto flag = [&](const char* name) {
    const Napi::Value given = object.Get(name);
    if (!given.IsUndefined() && !given.IsBoolean()) args.Fail(std::string(name) + " is not a boolean");
    return given.IsBoolean() && given.As<Napi::Boolean>().Value();
  };
  const auto text = [&](const char* name) -> std::string {
    const Napi::Value given = object.Get(name);
    if (given.IsUndefined()) return {};
    if (!given.IsString()) args.Fail(std::string(name) + " is not a string");
    return given.As<Napi::String>();
  };
  settings.isa = text("isa");
  settings.system_root = text("systemRoot");
  settings.threads = static_cast<int>(number("threads", 1024));
  settings.memory_limit = static_cast<size_t>(number("memoryLimit", int64_t{1} << 53));
  settings.tf32 = flag("tf32");
  settings.debugging = {flag("poison"), flag("anomaly")};
  return settings;
}

Napi::Value InstructionSets(Info info) {
  const auto& isas = cpu::Isas();
  Napi::Array names = Napi::Array::New(info.Env(), isas.size());
  for (size_t i = 0; i < isas.size(); ++i) names[static_cast<uint32_t>(i)] = isas[i].name;
  return names;
}

Napi::Value ListDevices(Info info) {
  const Napi::Env env = info.Env();
  const auto devices = Environment::Of(env).ListDevices(SettingsOf(Args(info, "listDevices"), info[0]));
  Napi::Array list = Napi::Array::New(env, devices.size());
  for (size_t i = 0; i < devices.size(); ++i) {
    const DeviceInfo& device = devices[i];
    Napi::Object object = Napi::Object::New(env);
    object["id"] = device.id;
    object["kind"] = device.kind;
    object["name"] = device.name;
    object["usable"] = device.usable();
    if (!device.usable()) object["reason"] = device.reason;
    object["memoryBytes"] = static_cast<double>(device.memory_bytes);
    if (!device.isa.empty()) object["isa"] = device.isa;
    if (device.threads > 0) object["threads"] = device.threads;
    if (device.compute_major > 0) {
      Napi::Array capability = Napi::Array::New(env, 2);
      capability[0u] = device.compute_major;
      capability[1u] = device.compute_minor;
      object["computeCapability"] = capability;
    }
    if (!device.driver.empty()) object["driver"] = device.driver;
    if (!device.blas.empty()) object["blas"] = device.blas;
    list[static_cast<uint32_t>(i)] = object;
  }
  return list;
}

Napi::Value OpenDevice(Info info) {
  Args args(info, "openDevice");
  if (!info[0].IsString()) args.Fail("not a device id");
  const OpenSettings settings = SettingsOf(args, info[1]);
  auto handle = std::make_unique<DeviceHandle>();
  handle->session = Environment::Of(info.Env()).OpenDevice(info[0].As<Napi::String>(), settings, settings.debugging);
  const auto result = Napi::External<DeviceHandle>::New(
      info.Env(), handle.get(), [](Napi::Env, DeviceHandle* raw) { const std::unique_ptr<DeviceHandle> owned(raw); });
  handle.release();  // the finalizer owns it now
  napi_type_tag_object(info.Env(), result, &DeviceHandle::kTag);
  return result;
}

Napi::Value Memory(Info info) {
  const auto session = SessionOf(Args(info, "memory"), info[0]);
  const MemoryUse use = session->pool.Use(session->queue->completed());
  Napi::Object object = Napi::Object::New(info.Env());
  object["live"] = static_cast<double>(use.live);
  object["peak"] = static_cast<double>(use.peak);
  object["reserved"] = static_cast<double>(use.reserved + session->device->reserve().sum());
  return object;
}

Napi::Value Synchronize(Info info) {
  const auto session = SessionOf(Args(info, "synchronize"), info[0]);
  Environment::CountWait(*session);
  return Environment::Of(info.Env())
      .Await(
          *session, session->queue->submitted(),
          [&queue = *session->queue, device = session->device.get()] {
            const Status device_status = device->Synchronize();
            queue.CollectCheckResults();
            const Status failure = queue.TakeFailure();
            return failure.ok() ? device_status : failure;
          },
          nullptr);
}

// What is idle now goes back at once, the device's own share when the work enqueued so far is done.
Napi::Value Trim(Info info) {
  const auto session = SessionOf(Args(info, "trim"), info[0]);
  session->pool.Trim(session->queue->completed());
  return Environment::Of(info.Env())
      .Await(
          *session, session->queue->submitted(),
          [&queue = *session->queue, device = session->device.get()] {
            static_cast<void>(device->Synchronize());  // a failure is that of the work, for those who wait for it
            queue.CollectCheckResults();
            device->Trim();
            return Status();
          },
          nullptr);
}

Napi::Value PeakFlops(Info info) {
  constexpr double kLongest = 60;  // seconds
  Args args(info, "peakFlops");
  const auto session = SessionOf(args, info[0]);
  const HostArray target = HostArrayOf(args, info[2]);
  const double seconds = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : 0;
  if (!(seconds > 0 && seconds <= kLongest)) args.Fail("not a number of seconds above 0 and up to 60");
  if (!target.Holds(DType::kF32) || target.size == 0) args.Fail("not a Float32Array of at least one element");
  ExpectFixed(args, target);
  auto array = std::make_shared<Napi::ObjectReference>(Napi::Persistent(target.array.As<Napi::Object>()));
  return Environment::Of(info.Env())
      .Await(
          *session, session->queue->submitted(),
          [device = session->device.get(), seconds, data = static_cast<float*>(target.data)] {
            *data = static_cast<float>(device->MeasurePeakFlops(seconds));
            return Status();
          },
          [array] {});
}

}  // namespace

void ExportDevices(Napi::Object exports) {
  Export<SetErrorFactory>(exports, "setErrorFactory");
  Export<InstructionSets>(exports, "instructionSets");
  Export<ListDevices>(exports, "listDevices");
  Export<OpenDevice>(exports, "openDevice");
  Export<Memory>(exports, "memory");
  Export<Synchronize>(exports, "synchronize");
  Export<Trim>(exports, "trim");
  Export<PeakFlops>(exports, "peakFlops");
}

}  // namespace sas::binding
