// For which GPUs this build has kernels.
#pragma once

#include <string>
#include <string_view>

namespace sas::cuda {

// Why a device of compute capability `major`.`minor` has no kernels in a build for `architectures`, as CMake lists them
// ("80;90a-real;120-real"); empty where it has. Machine code (-real, or no suffix) runs on its own major version from
// its minor one on, PTX (-virtual, or no suffix) on everything newer; with an `a` on its own version alone, with an `f`
// on its own major version alone.
std::string WhyNoKernels(std::string_view architectures, int major, int minor);

}  // namespace sas::cuda
