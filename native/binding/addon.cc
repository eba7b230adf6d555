// The addon's entry: one Environment per JavaScript environment, and the functions of binding.d.ts.
#include <napi.h>

#include "binding/environment.h"
#include "binding/memory.h"
#include "binding/ops.h"

namespace sas::binding {

static Napi::Object Initialize(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(std::make_unique<Environment>(env).release());  // deleted with the environment
  ExportDevices(exports);
  ExportMemory(exports);
  ExportTensorOps(exports);
  ExportAttentionOps(exports);
  ExportTrainingOps(exports);
  return exports;
}

NODE_API_MODULE(sas_attention, Initialize)

}  // namespace sas::binding
