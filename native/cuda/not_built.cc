// Stands in for the CUDA backend in a binary that was built without it.
#include "cuda/cuda_backend.h"

namespace sas::cuda {

Backend GetBackend() {
  static const auto describe = [] {
    DeviceInfo info;
    info.id = "cuda:0";
    info.kind = "cuda";
    info.name = "NVIDIA GPU";
    info.reason = "this build of sas-attention has no CUDA backend";
    return info;
  };
  return {[](const Settings&) { return std::vector<DeviceInfo>{describe()}; },
          [](const std::string&, const Settings&) -> std::variant<std::unique_ptr<Device>, Status> {
            return Status(StatusCode::kDevice, describe().reason);
          }};
}

}  // namespace sas::cuda
