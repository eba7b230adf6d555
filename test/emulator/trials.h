// What programs with planted faults print: one JSON line per trial.
#pragma once

#include <cstdio>
#include <string>

#include "cuda_runtime.h"
#include "streams.h"

namespace sas::emulator {

// A failed call as it is reported, or nothing.
inline std::string Describe(cudaError_t error) {
  return error == cudaSuccess ? "" : std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

// Runs `attempt`, which returns how its fault was caught, or nothing. A fault in a kernel loses the device: every trial
// begins anew.
template <class Attempt>
void Try(const char* program, const char* fault, const Attempt& attempt) {
  Reset();
  const std::string caught = attempt();
  std::string text;
  for (const char character : caught) {
    if (character == '"' || character == '\\') text += '\\';
    text += character;
  }
  std::printf("{\"program\": \"%s\", \"fault\": \"%s\", \"caught\": \"%s\"}\n", program, fault, text.c_str());
}

}  // namespace sas::emulator
