// Everything of binding.d.ts that is not an operation.
#pragma once

#include <napi.h>

namespace sas::binding {

void ExportDevices(Napi::Object exports);
void ExportMemory(Napi::Object exports);

}  // namespace sas::binding
