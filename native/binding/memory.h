// Devices and memory: everything of binding.d.ts that is not an operation.
#pragma once

#include <napi.h>

namespace sas::binding {

void ExportMemory(Napi::Object exports);

}  // namespace sas::binding
