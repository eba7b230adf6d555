#include <cuda_runtime.h>

#include <optional>
#include <string>

#include "cuda/architectures.h"
#include "cuda/cuda_backend.h"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

constexpr int kOldestMajor = 8;  // sm_80: asynchronous copies and bf16 products

// Names of operations, as template arguments.
#define SAS_ENTRY(Name, Params) constexpr char kNameOf##Name[] = #Name;
SAS_OPERATIONS(SAS_ENTRY)
#undef SAS_ENTRY

// Every operation begins on its device and leaves no scratch memory behind.
template <auto Body, class Params, const char* kName>
Status Enter(Context& context, const Params& params) {
  auto& cuda = static_cast<CudaContext&>(context);
  std::optional<CurrentDevice> current;
  if (cuda.OnOpenersThread()) current.emplace(cuda.ordinal());  // inline, on a thread that others use too
  SAS_TRY(cuda.Begin(kName));
  struct Scope {
    CudaContext& context;
    ~Scope() { context.End(); }
  } scope{cuda};
  try {
    return cuda.Judge(Body(cuda, params));
  } catch (const DeviceFailure& failure) {
    return cuda.Judge(failure.status);
  }
}

constexpr Operations kOperations{
#define SAS_ENTRY(Name, Params) .Name = Enter<Name, Params, kNameOf##Name>,
    SAS_OPERATIONS(SAS_ENTRY)
#undef SAS_ENTRY
};

std::string VersionName(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

DeviceInfo Unusable(const std::string& reason) {
  DeviceInfo info;
  info.id = "cuda:0";
  info.kind = "cuda";
  info.name = "NVIDIA GPU";
  info.reason = reason;
  return info;
}

// Why no device can be counted.
std::string CountFailure(cudaError_t error) {
  static_cast<void>(cudaGetLastError());
  int driver = 0, runtime = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  if (driver == 0) return "no NVIDIA driver is installed (libcuda.so.1 cannot be loaded)";
  if (error == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver supports CUDA " + VersionName(driver) + ", but this build of sas-attention needs CUDA " +
           VersionName(runtime) + ": update the driver";
  }
  if (error == cudaErrorNoDevice) {
    return "the NVIDIA driver finds no GPU (is one installed, and not hidden by CUDA_VISIBLE_DEVICES?)";
  }
  return std::string("the NVIDIA driver failed: ") + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ")";
}

DeviceInfo Describe(int ordinal) {
  DeviceInfo info = Unusable("");
  info.id = "cuda:" + std::to_string(ordinal);
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, ordinal); error != cudaSuccess) {
    info.reason = ToStatus(error, "cudaGetDeviceProperties").message();
    return info;
  }
  info.name = properties.name;
  info.memory_bytes = properties.totalGlobalMem;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  int driver = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  info.driver = "CUDA " + VersionName(driver);
  int pools = 0;
  static_cast<void>(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, ordinal));
  if (properties.major < kOldestMajor) {
    info.reason = "compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                  " is not supported: the kernels need 8.0 (Ampere) or newer";
  } else if (pools == 0) {
    info.reason = "the driver offers no memory pools on it (cudaMallocAsync), which virtual GPUs may lack";
  } else {
    info.reason = WhyNoKernels(SAS_CUDA_BUILT_FOR, properties.major, properties.minor);
  }
  return info;
}

class CudaDevice : public Device {
 public:
  explicit CudaDevice(DeviceInfo info) : info_(std::move(info)) {}
  Status Open(bool tf32) { return context_.Open(std::stoi(info_.id.substr(info_.id.find(':') + 1)), tf32); }

  DeviceInfo info() const override {
    DeviceInfo info = info_;
    info.blas = context_.blas().Describe();
    return info;
  }
  const Operations& operations() const override { return kOperations; }
  Context& context() override { return context_; }

  Status AllocateRaw(size_t bytes, void** data) override { return context_.AllocateRaw(bytes, data); }
  void FreeRaw(void* data, size_t bytes) override { context_.FreeRaw(data, bytes); }
  void SetReclaim(std::function<void()> reclaim) override { context_.SetReclaim(std::move(reclaim)); }
  DeviceReserve reserve() const override { return context_.reserve(); }
  size_t TakeScratchPeak() override { return context_.TakeScratchPeak(); }

  bool HostAccessible() const override { return false; }
  double MeasurePeakFlops(double seconds) override {
    if (!context_.Begin("MeasurePeakFlops").ok()) return 0;
    const double rate = PeakFlops(context_, seconds);
    context_.End();
    return rate;
  }
  Status CopyToDevice(void* target, const void* source, size_t bytes) override {
    return context_.Judge(context_.CopyToDevice(target, source, bytes));
  }
  Status CopyToHost(void* target, const void* source, size_t bytes) override {
    return context_.Judge(context_.CopyToHost(target, source, bytes));
  }
  Status StartFetch(const void* source, size_t bytes, std::unique_ptr<Fetch>* fetch) override {
    return context_.Judge(context_.StartFetch(source, bytes, fetch));
  }
  Status Synchronize() override { return context_.Judge(context_.Synchronize()); }
  bool Idle() const override { return context_.Idle(); }
  void Trim() override { context_.Trim(); }
  void TrimTo(size_t scratch) override { context_.TrimTo(scratch); }
  void Written(const void* data, size_t bytes) noexcept override { context_.weights().Written(data, bytes); }
  void Cancel() override { context_.Cancel(); }
  size_t ChecksStarted() const override { return context_.checks_started(); }
  std::vector<Status> TakeCheckResults() override { return context_.TakeCheckResults(); }
  void Guard(const std::bitset<kMaxChecks>& checks) override { context_.SetGuard(checks); }
  Status Poison(void* target, size_t bytes) override {
    SAS_TRY(context_.Begin());
    return context_.Judge(ToStatus(cudaMemsetAsync(target, 0xff, bytes, context_.stream()), "cudaMemsetAsync"));
  }

 private:
  const DeviceInfo info_;
  CudaContext context_;
};

std::vector<DeviceInfo> List(const Settings&) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0)
    return {Unusable(CountFailure(error == cudaSuccess ? cudaErrorNoDevice : error))};
  std::vector<DeviceInfo> devices;
  for (int ordinal = 0; ordinal < count; ++ordinal) devices.push_back(Describe(ordinal));
  return devices;
}

std::variant<std::unique_ptr<Device>, Status> OpenDevice(const std::string& id, const Settings& settings) {
  for (DeviceInfo& info : List(settings)) {
    if (info.id != id) continue;
    if (!info.usable()) return Status(StatusCode::kDevice, info.reason);
    auto device = std::make_unique<CudaDevice>(std::move(info));
    if (Status status = device->Open(settings.tf32); !status.ok()) return status;
    return device;
  }
  return Status(StatusCode::kDevice, "there is no device " + id);
}

}  // namespace

Backend GetBackend() { return {List, OpenDevice}; }

}  // namespace sas::cuda
