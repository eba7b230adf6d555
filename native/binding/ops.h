// The operations of binding.d.ts, one short function each in the file of its kind.
#pragma once

#include <napi.h>

namespace sas::binding {

void ExportTensorOps(Napi::Object exports);
void ExportAttentionOps(Napi::Object exports);
void ExportTrainingOps(Napi::Object exports);

}  // namespace sas::binding
