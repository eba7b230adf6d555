// Memory of the system for tensors and scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "core/status.h"
#include "cpu/cgroup.h"

namespace sas::cpu {

// Any thread.
class Pages {
 public:
  explicit Pages(Cgroup cgroup) : cgroup_(std::move(cgroup)), limited_(cgroup_.MemoryLimit().has_value()) {}

  // 64-byte aligned. kOutOfMemory, with why, where there is none; also where a container's limit leaves none: beyond it
  // the kernel kills. Large blocks ask for huge pages: the rows of one head lie kilobytes apart, and with small pages
  // nearly every one would need a translation of its own.
  Status Allocate(size_t bytes, void** data);
  // As allocated, or a part of a large block, in whole pages.
  void Free(void* data, size_t bytes) noexcept;
  // Freed memory that the C library keeps goes back to the system.
  void Trim() noexcept;

 private:
  Status CheckRoom(size_t bytes);
  void Forget(char* data, size_t bytes) noexcept;
  size_t Untouched() const;

  const Cgroup cgroup_;
  const bool limited_;
  std::mutex mutex_;                // guards what follows, which is of use only under a limit
  std::map<char*, size_t> mapped_;  // bytes of large blocks
  size_t unchecked_ = 0;            // bytes taken since the room was looked at
};

}  // namespace sas::cpu
