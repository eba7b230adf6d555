// What the control groups of this process, versions 1 and 2, let it have: a container's limits. Of nested groups the
// least counts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sas::cpu {

class Cgroup {
 public:
  // `root`: where /proc and /sys are looked for; empty: in /.
  explicit Cgroup(const std::string& root = "");

  // Bytes. Nothing where the machine's memory is the only limit.
  std::optional<uint64_t> MemoryLimit() const;
  // Bytes that may still be taken: up to the limit from what is in use now, without the page cache's inactive files,
  // which the kernel gives up first.
  std::optional<uint64_t> MemoryRoom() const;
  // Processors that the quota of time is worth, not always a whole number.
  std::optional<double> Processors() const;

 private:
  struct MemoryFiles {
    std::string limit, usage, statistics;
    const char* inactive;  // in `statistics`
  };
  // Of groups that have a limit, or a quota.
  std::vector<MemoryFiles> memory_;
  std::optional<double> processors_;
};

// Of the machine, in bytes.
uint64_t PhysicalMemory();

}  // namespace sas::cpu
