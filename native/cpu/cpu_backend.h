// The CPU as a device.
#pragma once

#include "core/device.h"

namespace sas::cpu {

Backend GetBackend();

}  // namespace sas::cpu
