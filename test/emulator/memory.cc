#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "immortal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace sas::emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kBefore = 0, kAfter = 0;
constexpr bool kSanitized = true;
#else
constexpr size_t kBefore = 256, kAfter = 1024;
constexpr bool kSanitized = false;
#endif
constexpr size_t kAlignment = 256;
constexpr int kPoison = 0xff;

// What is kept of closed allocations, and how much of that one call of Damage looks at.
constexpr size_t kMostClosed = 256, kMostClosedBytes = size_t{64} << 20, kLookBytes = size_t{1} << 20;
constexpr size_t kReusedFrom = 64;

bool AllPoison(const unsigned char* data, size_t bytes) {
  return bytes == 0 || (data[0] == kPoison && std::memcmp(data, data + 1, bytes - 1) == 0);
}

uintptr_t Key(const void* address) { return reinterpret_cast<uintptr_t>(address); }

}  // namespace

GuardedMemory::GuardedMemory(size_t bytes) : bytes_(bytes) {
  void* memory = nullptr;
  const size_t whole = kBefore + bytes + kAfter;
  if (posix_memalign(&memory, kAlignment, whole == 0 ? 1 : whole) != 0) throw std::bad_alloc();
  data_ = static_cast<unsigned char*>(memory) + kBefore;
  memset(data_ - kBefore, kPoison, kBefore);
  memset(data_ + bytes_, kPoison, kAfter);
}

GuardedMemory::~GuardedMemory() {
  Allow();
  std::free(data_ - kBefore);
}

std::string GuardedMemory::Damage() const {
  unsigned char* const before = data_ - kBefore;
  unsigned char* const after = data_ + bytes_;
  const bool before_intact = AllPoison(before, kBefore), after_intact = AllPoison(after, kAfter);
  if (before_intact && after_intact) return "";
  memset(before, kPoison, kBefore);
  memset(after, kPoison, kAfter);
  return std::string(before_intact ? "after the end" : "before the start") + " of " + std::to_string(bytes_) + " bytes";
}

void GuardedMemory::Poison() const { memset(data_, kPoison, bytes_); }
bool GuardedMemory::Poisoned() const { return AllPoison(data_, bytes_); }

#if defined(__SANITIZE_ADDRESS__)
void GuardedMemory::Forbid() const { ASAN_POISON_MEMORY_REGION(data_, bytes_); }
void GuardedMemory::Allow() const { ASAN_UNPOISON_MEMORY_REGION(data_, bytes_); }
#else
void GuardedMemory::Forbid() const {}
void GuardedMemory::Allow() const {}
#endif

// The oldest closed allocation of that size, once there are many: addresses come again, as a pool's do. Null: none.
void* Allocations::Reuse(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (closed_.size() < kReusedFrom) return nullptr;
  const auto same = std::ranges::find_if(
      closed_, [&](uintptr_t address) { return by_address_.at(address).memory->bytes() == bytes; });
  if (same == closed_.end()) return nullptr;
  Allocation& allocation = by_address_.at(*same);
  if (damage_.empty()) damage_ = WrittenAfterClose(allocation);
  closed_bytes_ -= bytes;
  closed_.erase(same);
  allocation.state = State::kHandedOut;
  return allocation.memory->data();
}

void* Allocations::Add(size_t bytes) {
  if (void* data = Reuse(bytes); data != nullptr) return data;
  std::unique_ptr<GuardedMemory> memory;
  try {
    memory = std::make_unique<GuardedMemory>(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  void* data = memory->data();
  memory->Forbid();
  const std::lock_guard lock(mutex_);
  by_address_[Key(data)] = {std::move(memory)};
  return data;
}

void Allocations::Open(void* data) {
  const std::lock_guard lock(mutex_);
  Allocation& allocation = by_address_.at(Key(data));
  allocation.state = State::kUsable;
  allocation.memory->Allow();
  allocation.memory->Poison();
}

void Allocations::Close(void* data) {
  const std::lock_guard lock(mutex_);
  Allocation& allocation = by_address_.at(Key(data));
  allocation.state = State::kClosed;
  allocation.memory->Poison();
  allocation.memory->Forbid();
  closed_.push_back(Key(data));
  closed_bytes_ += allocation.memory->bytes();
  while (closed_.size() > kMostClosed || (closed_.size() > 1 && closed_bytes_ > kMostClosedBytes)) {
    const auto oldest = by_address_.find(closed_.front());
    if (damage_.empty()) damage_ = WrittenAfterClose(oldest->second);
    closed_bytes_ -= oldest->second.memory->bytes();
    by_address_.erase(oldest);
    closed_.pop_front();
  }
}

const Allocations::Allocation* Allocations::At(const void* address) const {
  auto next = by_address_.upper_bound(Key(address));
  if (next == by_address_.begin()) return nullptr;
  const Allocation& allocation = (--next)->second;
  return allocation.memory->range().Contains(address, 1) ? &allocation : nullptr;
}

Range Allocations::Find(const void* address) {
  const std::lock_guard lock(mutex_);
  const Allocation* allocation = At(address);
  return allocation != nullptr && allocation->state == State::kUsable ? allocation->memory->range() : Range{};
}

bool Allocations::Knows(const void* address) {
  const std::lock_guard lock(mutex_);
  return At(address) != nullptr;
}

bool Allocations::Usable(const void* address, size_t bytes, std::string* why) {
  const std::lock_guard lock(mutex_);
  const Allocation* allocation = At(address);
  if (allocation == nullptr) {
    *why = "that is not allocated";
  } else if (allocation->state == State::kHandedOut) {
    *why = "before its stream has come to the allocation";
  } else if (allocation->state == State::kClosed) {
    *why = "that has been freed";
  } else if (!allocation->memory->range().Contains(address, bytes)) {
    *why = "past the end of " + std::to_string(allocation->memory->bytes()) + " bytes";
  } else {
    return true;
  }
  return false;
}

std::string Allocations::WrittenAfterClose(const Allocation& allocation) const {
  const GuardedMemory& memory = *allocation.memory;
  if (kSanitized || memory.Poisoned()) return "";
  memory.Poison();  // told once
  return "after it was freed (" + std::to_string(memory.bytes()) + " bytes)";
}

std::string Allocations::Damage() {
  if constexpr (kSanitized) return "";
  const std::lock_guard lock(mutex_);
  for (const auto& [address, allocation] : by_address_) {
    if (std::string damage = allocation.memory->Damage(); !damage.empty()) return damage;
  }
  if (!damage_.empty()) return std::exchange(damage_, "");
  // The closed ones in turn, a part at each call.
  size_t looked = 0;
  for (size_t count = 0; count < closed_.size() && looked < kLookBytes; ++count) {
    const Allocation& allocation = by_address_.at(closed_[++next_look_ % closed_.size()]);
    if (std::string damage = WrittenAfterClose(allocation); !damage.empty()) return damage;
    looked += allocation.memory->bytes();
  }
  return "";
}

void Allocations::Clear() {
  const std::lock_guard lock(mutex_);
  by_address_.clear();
  closed_.clear();
  closed_bytes_ = 0;
  damage_.clear();
}

Allocations& DeviceMemory() {
  static Allocations& allocations = MakeImmortal<Allocations>();
  return allocations;
}
Allocations& PinnedMemory() {
  static Allocations& allocations = MakeImmortal<Allocations>();
  return allocations;
}

}  // namespace sas::emulator
