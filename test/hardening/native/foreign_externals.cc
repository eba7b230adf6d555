// An addon of somebody else: Externals that point to nothing of ours.
#include <node_api.h>

#include <cstdint>

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
  return exports;
}
