// Memory of the emulated device and pinned memory of the host: poisoned, and surrounded by guard zones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace sas::emulator {

struct Range {
  const unsigned char* begin = nullptr;
  const unsigned char* end = nullptr;
  bool Contains(const void* address, size_t bytes) const {
    const auto* at = static_cast<const unsigned char*>(address);
    return at >= begin && at + bytes <= end;
  }
  bool Overlaps(const Range& other) const { return begin < other.end && other.begin < end; }
};

// `bytes` of memory, 256-byte aligned. Under the address sanitizer, which sees what lies outside by itself, there are
// no guard zones.
class GuardedMemory {
 public:
  explicit GuardedMemory(size_t bytes);  // throws std::bad_alloc
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  unsigned char* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Range range() const { return {data_, data_ + bytes_}; }
  // What was written outside, or nothing. Mends it, so that it is told once.
  std::string Damage() const;
  // Fills it with 0xff, NaN in every float type.
  void Poison() const;
  bool Poisoned() const;
  // For the address sanitizer: whether anything may touch it.
  void Forbid() const;
  void Allow() const;

 private:
  size_t bytes_;
  unsigned char* data_;
};

// Allocations, shared by all threads of the process. Each has a life: handed out, usable from Open to Close, then kept
// for a while, poisoned, so that a use after the end is seen.
class Allocations {
 public:
  void* Add(size_t bytes);  // null: the host has no more
  void Open(void* data);    // poisons it
  void Close(void* data);
  // The usable allocation that `address` lies in, or an empty range.
  Range Find(const void* address);
  // Whether `address` lies in one, usable or not.
  bool Knows(const void* address);
  // Whether the bytes are all usable, and if not, why.
  bool Usable(const void* address, size_t bytes, std::string* why);
  // What was written outside of any, or into one that has been closed.
  std::string Damage();
  // Closes all and forgets them.
  void Clear();

 private:
  void* Reuse(size_t bytes);
  enum class State { kHandedOut, kUsable, kClosed };
  struct Allocation {
    std::unique_ptr<GuardedMemory> memory;
    State state = State::kHandedOut;
  };
  const Allocation* At(const void* address) const;
  std::string WrittenAfterClose(const Allocation& allocation) const;

  std::mutex mutex_;
  std::map<uintptr_t, Allocation> by_address_;
  std::deque<uintptr_t> closed_;  // oldest first
  size_t closed_bytes_ = 0;
  std::string damage_;    // found when a closed one was given up
  size_t next_look_ = 0;  // into closed_
};
Allocations& DeviceMemory();
Allocations& PinnedMemory();

}  // namespace sas::emulator
