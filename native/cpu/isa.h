// The instruction sets the kernels are compiled for, and the choice among them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/device.h"

namespace sas::cpu {

struct Isa {
  const char* name;  // as SAS_ISA spells it
  bool (*supported)();
  const Operations& (*operations)();
  // Multiply-adds per second of one thread, counted as 2, measured on registers for about `seconds`.
  double (*peak_flops)(double seconds);
};

// From best to most portable. The last is always supported.
const std::vector<Isa>& Isas();

}  // namespace sas::cpu
