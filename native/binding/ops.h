// The operations of binding.d.ts.
#pragma once

#include <napi.h>

namespace sas::binding {

void ExportOps(Napi::Object exports);

}  // namespace sas::binding
