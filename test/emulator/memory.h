// Memory of the emulated device: poisoned, and surrounded by guard zones.
#pragma once

#include <cstddef>
#include <string>

namespace sas::emulator {

// `bytes` of 0xff (NaN in every float type), 256-byte aligned. Under the address sanitizer, which sees what lies
// outside by itself, there are no guard zones.
class GuardedMemory {
 public:
  explicit GuardedMemory(size_t bytes);  // throws std::bad_alloc
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  unsigned char* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  // What was written outside, or nothing. Mends it, so that it is told once.
  std::string Damage() const;

 private:
  size_t bytes_;
  unsigned char* data_;
};

// Device memory, shared by all threads of the process.
void* AllocateDevice(size_t bytes, size_t limit);  // null: more than `limit` together
bool FreeDevice(void* data);                       // false: not allocated
std::string DeviceDamage();                        // of any allocation

struct Range {
  const unsigned char* begin = nullptr;
  const unsigned char* end = nullptr;
  bool Contains(const void* address, size_t bytes) const {
    const auto* at = static_cast<const unsigned char*>(address);
    return at >= begin && at + bytes <= end;
  }
};
// The allocation that `address` lies in, or an empty range.
Range DeviceRange(const void* address);

}  // namespace sas::emulator
