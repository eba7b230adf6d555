// Another addon in the same process: Externals that point to nothing of ours, and what V8 has been told of memory.
#include <node_api.h>

#include <cstdint>

// The bytes that all addons have reported, which process.memoryUsage() does not show.
static napi_value ExternalMemory(napi_env env, napi_callback_info) {
  int64_t bytes = 0;
  napi_value result = nullptr;
  napi_adjust_external_memory(env, 0, &bytes);
  napi_create_int64(env, bytes, &result);
  return result;
}

extern "C" __attribute__((visibility("default"))) napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  static const uint8_t page[4096] = {};
  static const napi_type_tag tag = {1, 2};
  const auto add = [&](const char* name, const void* data, bool tagged) {
    napi_value external = nullptr;
    napi_create_external(env, const_cast<void*>(data), nullptr, nullptr, &external);
    if (tagged) napi_type_tag_object(env, external, &tag);
    napi_set_named_property(env, exports, name, external);
  };
  add("unmapped", reinterpret_cast<const void*>(uintptr_t{8}), false);
  add("zeros", page, false);
  add("tagged", page, true);
  add("none", nullptr, false);
  napi_value function = nullptr;
  napi_create_function(env, "externalMemory", NAPI_AUTO_LENGTH, ExternalMemory, nullptr, &function);
  napi_set_named_property(env, exports, "externalMemory", function);
  return exports;
}
