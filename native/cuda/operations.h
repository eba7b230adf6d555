// Declares every CUDA operation. Each is defined in the file of its name.
#pragma once

#include "core/device.h"
#include "cuda/context.h"

namespace sas::cuda {

#define SAS_DECLARE(Name, Params) Status Name(CudaContext& context, const Params& p);
SAS_OPERATIONS(SAS_DECLARE)
#undef SAS_DECLARE

// The rate of tensor-core products in bf16, all multiprocessors together, in FLOP/s (a multiply-add counts as 2), over
// about `seconds`. 0 if it cannot be measured.
double PeakFlops(CudaContext& context, double seconds);

}  // namespace sas::cuda
