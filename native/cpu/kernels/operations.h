// Declares every CPU operation for the instruction set being compiled (SAS_ISA: avx512bf16, avx512, avx2, neon or
// baseline). Each is defined in the file of its name.
#pragma once

#include "core/device.h"
#include "cpu/context.h"

namespace sas::cpu::SAS_ISA {

#define SAS_DECLARE(Name, Params) Status Name(CpuContext& context, const Params& p);
SAS_OPERATIONS(SAS_DECLARE)
#undef SAS_DECLARE

}  // namespace sas::cpu::SAS_ISA
