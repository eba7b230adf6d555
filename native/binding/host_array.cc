#include "binding/host_array.h"

namespace sas::binding {

HostArray HostArrayOf(const Args& args, Napi::Value value) {
  if (!value.IsTypedArray()) args.Fail("not a typed array");
  HostArray host{value.As<Napi::TypedArray>(), {}, 0, nullptr, 0};
  napi_get_typedarray_info(value.Env(), value, &host.type, &host.size, &host.data, nullptr, nullptr);
  if (host.type != napi_float32_array && host.type != napi_int32_array && host.type != napi_uint16_array) {
    args.Fail("not a Float32Array, Int32Array or Uint16Array");
  }
  host.bytes = host.size * (host.type == napi_uint16_array ? 2 : 4);
  return host;
}

void ExpectFixed(const Args& args, const HostArray& host) {
  const Napi::Env env = host.array.Env();
  napi_value buffer = nullptr;  // the array's own, whatever a property `buffer` says
  bool plain = false;
  napi_get_typedarray_info(env, host.array, nullptr, nullptr, nullptr, &buffer, nullptr);
  napi_is_arraybuffer(env, buffer, &plain);
  if (!plain || Environment::Of(env).IsResizable(Napi::Value(env, buffer))) {
    args.Fail("the array has a shared or resizable buffer, expected a plain ArrayBuffer of fixed length");
  }
}

}  // namespace sas::binding
