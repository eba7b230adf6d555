// How a library that is given a stream of the emulated device puts work on it: the stand-in for cuBLAS, which is loaded
// at run time and knows nothing else of the emulator.
#pragma once

#include <functional>

namespace sas::emulator {

// What every stream begins with.
struct StreamHook {
  void (*enqueue)(StreamHook* stream, std::function<void()> work) = nullptr;
};

}  // namespace sas::emulator
