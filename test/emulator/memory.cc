#include "memory.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>

namespace sas::emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kBefore = 0, kAfter = 0;
#else
constexpr size_t kBefore = 256, kAfter = 1024;
#endif
constexpr size_t kAlignment = 256;
constexpr int kPoison = 0xff;

bool Poisoned(const unsigned char* data, size_t bytes) {
  return bytes == 0 || (data[0] == kPoison && std::memcmp(data, data + 1, bytes - 1) == 0);
}

struct Allocations {
  std::mutex mutex;
  std::map<uintptr_t, std::unique_ptr<GuardedMemory>> by_address;
  size_t bytes = 0;
};
Allocations& All() {
  static Allocations allocations;
  return allocations;
}

}  // namespace

GuardedMemory::GuardedMemory(size_t bytes) : bytes_(bytes) {
  void* memory = nullptr;
  const size_t whole = kBefore + bytes + kAfter;
  if (posix_memalign(&memory, kAlignment, whole == 0 ? 1 : whole) != 0) throw std::bad_alloc();
  memset(memory, kPoison, whole);
  data_ = static_cast<unsigned char*>(memory) + kBefore;
}

GuardedMemory::~GuardedMemory() { std::free(data_ - kBefore); }

std::string GuardedMemory::Damage() const {
  unsigned char* const before = data_ - kBefore;
  unsigned char* const after = data_ + bytes_;
  const bool before_intact = Poisoned(before, kBefore), after_intact = Poisoned(after, kAfter);
  if (before_intact && after_intact) return "";
  memset(before, kPoison, kBefore);
  memset(after, kPoison, kAfter);
  return std::string(before_intact ? "after the end" : "before the start") + " of " + std::to_string(bytes_) + " bytes";
}

void* AllocateDevice(size_t bytes, size_t limit) {
  Allocations& all = All();
  {
    const std::lock_guard lock(all.mutex);
    if (bytes > limit || all.bytes > limit - bytes) return nullptr;
    all.bytes += bytes;
  }
  std::unique_ptr<GuardedMemory> memory;
  try {
    memory = std::make_unique<GuardedMemory>(bytes);
  } catch (const std::bad_alloc&) {
  }
  const std::lock_guard lock(all.mutex);
  if (memory == nullptr) {
    all.bytes -= bytes;
    return nullptr;
  }
  void* data = memory->data();
  all.by_address[reinterpret_cast<uintptr_t>(data)] = std::move(memory);
  return data;
}

bool FreeDevice(void* data) {
  Allocations& all = All();
  std::unique_ptr<GuardedMemory> memory;  // freed without the lock
  const std::lock_guard lock(all.mutex);
  const auto found = all.by_address.find(reinterpret_cast<uintptr_t>(data));
  if (found == all.by_address.end()) return false;
  memory = std::move(found->second);
  all.bytes -= memory->bytes();
  all.by_address.erase(found);
  return true;
}

std::string DeviceDamage() {
  if constexpr (kBefore + kAfter == 0) return "";
  Allocations& all = All();
  const std::lock_guard lock(all.mutex);
  for (const auto& [address, memory] : all.by_address) {
    if (std::string damage = memory->Damage(); !damage.empty()) return damage;
  }
  return "";
}

Range DeviceRange(const void* address) {
  Allocations& all = All();
  const std::lock_guard lock(all.mutex);
  auto next = all.by_address.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (next == all.by_address.begin()) return {};
  const GuardedMemory& memory = *(--next)->second;
  const Range range{memory.data(), memory.data() + memory.bytes()};
  return range.Contains(address, 1) ? range : Range{};
}

}  // namespace sas::emulator
