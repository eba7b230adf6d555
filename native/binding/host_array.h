// The caller's typed arrays, of any realm.
#pragma once

#include <napi.h>

#include "binding/args.h"

namespace sas::binding {

// What an array of the caller holds: a Float32Array f32, an Int32Array i32, a Uint16Array the bits of bf16 or f16.
struct HostArray {
  bool Holds(DType dtype) const {
    return type == (dtype == DType::kF32   ? napi_float32_array
                    : dtype == DType::kI32 ? napi_int32_array
                                           : napi_uint16_array);
  }

  Napi::TypedArray array;
  napi_typedarray_type type;
  size_t size;
  void* data;
  size_t bytes;
};

HostArray HostArrayOf(const Args& args, Napi::Value value);
// Fails unless the memory can be used after the call: it stays where it is while nobody transfers it away.
void ExpectFixed(const Args& args, const HostArray& host);

}  // namespace sas::binding
