#include "cpu/cgroup.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

namespace sas::cpu {
namespace {

// A small file, whole; empty if it cannot be read. Takes no memory: it is read where memory is short.
class SmallFile {
 public:
  explicit SmallFile(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    while (size_ < bytes_.size()) {
      const ssize_t got = read(file, bytes_.data() + size_, bytes_.size() - size_);
      if (got <= 0) break;
      size_ += static_cast<size_t>(got);
    }
    close(file);
  }
  std::string_view text() const { return {bytes_.data(), size_}; }

 private:
  std::array<char, 16 << 10> bytes_;
  size_t size_ = 0;
};

// The number that a text begins with; nothing where it begins with a word (max) or a sign.
std::optional<uint64_t> NumberIn(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() ? std::optional(number) : std::nullopt;
}

// The number behind `name` at the beginning of a line.
std::optional<uint64_t> NumberOf(std::string_view text, std::string_view name) {
  for (size_t at = 0; at < text.size();) {
    const std::string_view line = text.substr(at, text.find('\n', at) - at);
    if (line.size() > name.size() && line.starts_with(name) && line[name.size()] == ' ') {
      return NumberIn(line.substr(name.size() + 1));
    }
    at += line.size() + 1;
  }
  return std::nullopt;
}

// The folders of the group `path` of a hierarchy and of those that it is in. A container may see its own group as the
// hierarchy's root, under whatever path: what is not there is not read.
std::vector<std::string> FoldersOf(const std::string& hierarchy, std::string path) {
  std::vector<std::string> folders;
  if (path.find("..") != std::string::npos) path.clear();  // outside of what this process can see
  for (; path.size() > 1; path.erase(path.rfind('/'))) folders.push_back(hierarchy + path);
  folders.push_back(hierarchy);
  return folders;
}

// Of time, in each period.
std::optional<double> Quota(std::optional<uint64_t> time, std::optional<uint64_t> period) {
  if (!time || !period || *time == 0 || *period == 0) return std::nullopt;
  return static_cast<double>(*time) / static_cast<double>(*period);
}

void Lower(std::optional<double>* least, std::optional<double> other) {
  if (other && (!*least || *other < **least)) *least = other;
}

}  // namespace

uint64_t PhysicalMemory() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
}

Cgroup::Cgroup(const std::string& root) {
  const SmallFile groups(root + "/proc/self/cgroup");
  const std::string all = root + "/sys/fs/cgroup";
  for (std::string_view rest = groups.text(); !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    // NUMBER:CONTROLLERS:PATH, of version 2 without controllers.
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const std::string controllers(line.substr(first + 1, second - first - 1)), path(line.substr(second + 1));
    const auto has = [list = "," + controllers + ","](const char* controller) {
      return list.find(std::string(",") + controller + ",") != list.npos;
    };
    if (controllers.empty()) {
      for (const char* hierarchy : {"", "/unified"}) {
        for (const std::string& folder : FoldersOf(all + hierarchy, path)) {
          memory_.push_back(
              {folder + "/memory.max", folder + "/memory.current", folder + "/memory.stat", "inactive_file"});
          const SmallFile quota(folder + "/cpu.max");  // TIME PERIOD, or max PERIOD
          const std::string_view text = quota.text();
          Lower(&processors_, Quota(NumberIn(text), NumberIn(text.substr(std::min(text.size(), text.find(' ') + 1)))));
        }
      }
    }
    if (has("memory")) {
      for (const std::string& folder : FoldersOf(all + "/memory", path)) {
        memory_.push_back({folder + "/memory.limit_in_bytes", folder + "/memory.usage_in_bytes",
                           folder + "/memory.stat", "total_inactive_file"});
      }
    }
    if (has("cpu")) {
      for (const std::string& hierarchy : {std::string("/cpu"), "/" + controllers}) {
        for (const std::string& folder : FoldersOf(all + hierarchy, path)) {
          Lower(&processors_, Quota(NumberIn(SmallFile(folder + "/cpu.cfs_quota_us").text()),
                                    NumberIn(SmallFile(folder + "/cpu.cfs_period_us").text())));
        }
      }
    }
  }
  // Version 1 says "none" with a number that no machine has.
  std::erase_if(memory_, [physical = PhysicalMemory()](const MemoryFiles& files) {
    return NumberIn(SmallFile(files.limit).text()).value_or(physical) >= physical;
  });
}

std::optional<uint64_t> Cgroup::MemoryLimit() const {
  std::optional<uint64_t> least;
  for (const MemoryFiles& files : memory_) {
    const auto limit = NumberIn(SmallFile(files.limit).text());
    if (limit) least = std::min(*limit, least.value_or(*limit));
  }
  return least;
}

std::optional<uint64_t> Cgroup::MemoryRoom() const {
  std::optional<uint64_t> least;
  for (const MemoryFiles& files : memory_) {
    const auto limit = NumberIn(SmallFile(files.limit).text());
    const auto usage = NumberIn(SmallFile(files.usage).text());
    if (!limit || !usage) continue;
    const uint64_t inactive = NumberOf(SmallFile(files.statistics).text(), files.inactive).value_or(0);
    const uint64_t used = *usage - std::min(*usage, inactive);
    const uint64_t room = *limit - std::min(*limit, used);
    least = std::min(room, least.value_or(room));
  }
  return least;
}

std::optional<double> Cgroup::Processors() const { return processors_; }

}  // namespace sas::cpu
