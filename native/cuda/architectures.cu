#include <algorithm>
#include <charconv>
#include <optional>

#include "cuda/architectures.h"

namespace sas::cuda {
namespace {

struct Architecture {
  int version;  // 10 * major + minor
  bool exact, code, ptx;
};

// Of one entry; none for names that stand for others (native, all).
std::optional<Architecture> Parse(std::string_view entry) {
  Architecture found{};
  const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), found.version);
  if (error != std::errc()) return std::nullopt;
  std::string_view rest = entry.substr(static_cast<size_t>(end - entry.data()));
  const char suffix = rest.empty() ? '\0' : rest.front();  // a: this version alone, f: this major version alone
  found.exact = suffix == 'a';
  if (suffix == 'a' || suffix == 'f') rest.remove_prefix(1);
  found.code = rest != "-virtual" || suffix == 'f';
  found.ptx = rest != "-real" && suffix != 'f';
  return found;
}

bool RunsOn(const Architecture& built, int version) {
  if (built.exact) return built.version == version;
  const bool newer = built.version <= version;
  return newer && (built.ptx || (built.code && built.version / 10 == version / 10));
}

std::string Version(int version) { return std::to_string(version / 10) + "." + std::to_string(version % 10); }

}  // namespace

std::string WhyNoKernels(std::string_view architectures, int major, int minor) {
  const int version = 10 * major + minor;
  std::string built_for;
  while (!architectures.empty()) {
    const size_t end = std::min(architectures.find_first_of(";,"), architectures.size());
    const std::optional<Architecture> built = Parse(architectures.substr(0, end));
    architectures.remove_prefix(std::min(end + 1, architectures.size()));
    if (!built || RunsOn(*built, version)) return "";
    built_for += (built_for.empty() ? "" : ", ") + Version(built->version);
  }
  return "this build has kernels for compute capability " + built_for + ", not for " + Version(version) +
         ": build with SAS_CUDA_ARCHITECTURES=" + std::to_string(version);
}

}  // namespace sas::cuda
