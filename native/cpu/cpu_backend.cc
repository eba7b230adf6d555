#include "cpu/cpu_backend.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <thread>

#include "cpu/cgroup.h"
#include "cpu/context.h"
#include "cpu/isa.h"

namespace sas::cpu {
namespace {

// The instruction set to use, or an error that says what SAS_ISA may be.
std::variant<const Isa*, std::string> ChooseIsa(const std::string& wanted) {
  std::string known;
  for (const Isa& isa : Isas()) {
    known += (known.empty() ? "" : ", ") + std::string(isa.name);
    if (!wanted.empty() && wanted != isa.name) continue;
    if (isa.supported()) return &isa;
    if (wanted == isa.name) return "SAS_ISA=" + wanted + ", but this processor does not support it";
  }
  return "SAS_ISA=" + wanted + " is not one of " + known;
}

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "CPU";
}

// Processors that this process may run on.
int AllowedProcessors() {
  cpu_set_t allowed;
  // More than the set has room for: as many as the C++ library counts.
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// As many as a quota of processor time is worth: more would only wait for each other.
int DefaultThreads(const Cgroup& cgroup) {
  const int allowed = AllowedProcessors();
  const double worth = std::round(cgroup.Processors().value_or(allowed));
  return static_cast<int>(std::clamp<double>(worth, 1, allowed));
}

DeviceInfo Describe(const Settings& settings) {
  const Cgroup cgroup(settings.system_root);
  DeviceInfo info;
  info.id = info.kind = "cpu";
  info.name = ProcessorName();
  info.memory_bytes = cgroup.MemoryLimit().value_or(PhysicalMemory());
  info.threads = settings.threads > 0 ? settings.threads : DefaultThreads(cgroup);
  const auto isa = ChooseIsa(settings.isa);
  if (std::holds_alternative<std::string>(isa)) {
    info.reason = std::get<std::string>(isa);
  } else {
    info.isa = std::get<const Isa*>(isa)->name;
  }
  return info;
}

class CpuDevice : public Device {
 public:
  CpuDevice(DeviceInfo info, const Isa& isa, Cgroup cgroup)
      : info_(std::move(info)), isa_(isa), context_(info_.threads, std::move(cgroup)) {}

  DeviceInfo info() const override { return info_; }
  const Operations& operations() const override { return isa_.operations(); }
  Context& context() override { return context_; }

  Status AllocateRaw(size_t bytes, void** data) override { return context_.pages.Allocate(bytes, data); }
  void FreeRaw(void* data, size_t bytes) override { context_.pages.Free(data, bytes); }
  bool FreesParts() const override { return true; }
  void SetReclaim(std::function<void()> reclaim) override { context_.scratch.SetReclaim(std::move(reclaim)); }
  DeviceReserve reserve() const override { return {.scratch = context_.scratch.bytes()}; }
  size_t TakeScratchPeak() override { return context_.scratch.TakePeak(); }

  bool HostAccessible() const override { return true; }
  double MeasurePeakFlops(double seconds) override {
    const int threads = context_.pool.threads();
    std::vector<double> rates(static_cast<size_t>(threads));
    try {
      context_.pool.Run(threads,
                        [&](int64_t item, int) { rates[static_cast<size_t>(item)] = PeakFlopsOfThread(seconds); });
    } catch (const Cancelled&) {
      return 0;
    }
    return std::accumulate(rates.begin(), rates.end(), 0.0);
  }
  Status CopyToDevice(void* target, const void* source, size_t bytes) override {
    if (bytes > 0) memcpy(target, source, bytes);  // an empty array has no address
    return {};
  }
  Status CopyToHost(void* target, const void* source, size_t bytes) override {
    if (bytes > 0) memcpy(target, source, bytes);  // an empty array has no address
    return {};
  }
  Status Synchronize() override { return {}; }
  void Trim() override {
    context_.scratch.TrimTo(0);
    context_.pages.Trim();
  }
  void TrimTo(size_t scratch) override { context_.scratch.TrimTo(scratch); }
  void Cancel() override { context_.pool.Cancel(); }
  Status Poison(void* target, size_t bytes) override {
    context_.scratch.Reset(true);
    memset(target, 0xff, bytes);
    return {};
  }

 private:
  // In slices, to be cancelled between two.
  double PeakFlopsOfThread(double seconds) {
    const auto slices = static_cast<int>(std::ceil(seconds / kLongestSlice));
    double sum = 0;
    for (int slice = 0; slice < slices && !context_.pool.cancelled(); ++slice) sum += isa_.peak_flops(seconds / slices);
    return sum / slices;
  }
  static constexpr double kLongestSlice = 0.1;  // seconds

  const DeviceInfo info_;
  const Isa& isa_;
  CpuContext context_;
};

std::variant<std::unique_ptr<Device>, Status> Open(const std::string&, const Settings& settings) {
  const auto isa = ChooseIsa(settings.isa);
  if (std::holds_alternative<std::string>(isa)) return Status(StatusCode::kDevice, std::get<std::string>(isa));
  return std::make_unique<CpuDevice>(Describe(settings), *std::get<const Isa*>(isa), Cgroup(settings.system_root));
}

}  // namespace

Backend GetBackend() {
  return {[](const Settings& settings) { return std::vector<DeviceInfo>{Describe(settings)}; }, Open};
}

}  // namespace sas::cpu
