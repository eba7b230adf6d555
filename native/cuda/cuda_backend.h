// NVIDIA GPUs as devices.
#pragma once

#include "core/device.h"

namespace sas::cuda {

Backend GetBackend();

}  // namespace sas::cuda
