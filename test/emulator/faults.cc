#include "faults.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <random>
#include <utility>

#include "fault_plan.h"
#include "immortal.h"

namespace sas::emulator {
namespace {

struct Named {
  cudaError_t error;
  const char* name;
  const char* text;
  bool loses_device = false;
};
#define SAS_ERROR(error, ...) \
  Named { error, #error, __VA_ARGS__ }
constexpr std::array kErrors{
    SAS_ERROR(cudaSuccess, "no error"),
    SAS_ERROR(cudaErrorInvalidValue, "invalid argument"),
    SAS_ERROR(cudaErrorMemoryAllocation, "out of memory"),
    SAS_ERROR(cudaErrorInitializationError, "initialization error"),
    SAS_ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    SAS_ERROR(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    SAS_ERROR(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable"),
    SAS_ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    SAS_ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    SAS_ERROR(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    SAS_ERROR(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered", true),
    SAS_ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    SAS_ERROR(cudaErrorNotReady, "device not ready"),
    SAS_ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered", true),
    SAS_ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    SAS_ERROR(cudaErrorLaunchTimeout, "the launch timed out and was terminated", true),
    SAS_ERROR(cudaErrorAssert, "device-side assert triggered", true),
    SAS_ERROR(cudaErrorMisalignedAddress, "misaligned address", true),
    SAS_ERROR(cudaErrorLaunchFailure, "unspecified launch failure", true),
    SAS_ERROR(cudaErrorNotSupported, "operation not supported"),
    SAS_ERROR(cudaErrorSystemDriverMismatch, "system has unsupported display driver / cuda driver combination"),
    SAS_ERROR(cudaErrorUnknown, "unknown error", true),
};

const Named* Find(cudaError_t error) {
  const auto* found = std::ranges::find(kErrors, error, &Named::error);
  return found == kErrors.end() ? nullptr : found;
}
bool LosesDevice(cudaError_t error) { return Find(error) != nullptr && Find(error)->loses_device; }

int ErrorOf(const std::string& name) {
  const auto* found = std::ranges::find(kErrors, name, &Named::name);
  return found == kErrors.end() ? -1 : static_cast<int>(found->error);
}

FaultPlan& Plan() {
  static FaultPlan& plan = MakeImmortal<FaultPlan>("SAS_EMULATOR_FAIL", Seed() ^ 0x9e3779b97f4a7c15u, ErrorOf);
  [[maybe_unused]] static const int reported = std::atexit([] { Plan().Report(); });
  return plan;
}

struct Loss {
  std::atomic<cudaError_t> error{cudaSuccess};
  std::mutex mutex;
  std::string text;
};
Loss& TheLoss() {
  static Loss loss;
  return loss;
}

thread_local Fault last;         // what cudaGetLastError returns
thread_local Fault explanation;  // of the latest failure, whether fetched or not

}  // namespace

cudaError_t Begin(const char* function) {
  return Lost() == cudaSuccess ? BeginWithoutDevice(function) : SetFailure(Lost());
}

cudaError_t BeginWithoutDevice(const char* function) {
  const std::optional<int> planned = Plan().Count(function);
  if (!planned.has_value()) return cudaSuccess;
  const auto error = static_cast<cudaError_t>(*planned);
  const std::string text = std::string(function) + " fails as asked";
  if (LosesDevice(error)) Lose({error, text});
  return SetFailure(error, text);
}

Fault CountKernel() {
  const std::optional<int> planned = Plan().Count("kernel");
  if (!planned.has_value()) return {};
  return {static_cast<cudaError_t>(*planned), "a kernel faults as asked"};
}

cudaError_t SetFailure(cudaError_t error, std::string text) {
  last = explanation = {error, std::move(text)};
  return error;
}

void Lose(const Fault& fault) {
  Loss& loss = TheLoss();
  const std::lock_guard lock(loss.mutex);
  if (loss.error != cudaSuccess) return;
  loss.text = fault.text;
  loss.error = fault.error;
}

cudaError_t Lost() { return TheLoss().error; }

uint64_t Setting(const char* name, uint64_t fallback) {
  const char* value = std::getenv(name);
  return value == nullptr ? fallback : std::strtoull(value, nullptr, 10);
}

uint64_t Seed() {
  static const uint64_t seed = Setting("SAS_EMULATOR_SEED", std::random_device{}());
  return seed;
}

void ForgetLoss() {
  Loss& loss = TheLoss();
  const std::lock_guard lock(loss.mutex);
  loss.error = cudaSuccess;
  last = explanation = {};
}

}  // namespace sas::emulator

using namespace sas::emulator;

const char* cudaGetErrorName(cudaError_t error) {
  const Named* named = Find(error);
  return named == nullptr ? "unrecognized error code" : named->name;
}

// The real texts; where the emulator knows more, that.
const char* cudaGetErrorString(cudaError_t error) {
  thread_local std::string text;
  Loss& loss = TheLoss();
  const std::lock_guard lock(loss.mutex);
  if (error != cudaSuccess && error == loss.error && !loss.text.empty()) {
    text = loss.text;
    return text.c_str();
  }
  if (error == explanation.error && !explanation.text.empty()) return explanation.text.c_str();
  const Named* named = Find(error);
  return named == nullptr ? "unrecognized error code" : named->text;
}

cudaError_t cudaPeekAtLastError() { return Lost() != cudaSuccess ? Lost() : last.error; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last = {};
  return error;
}
