#include "core/buffer.h"

#include <bit>
#include <string>

namespace sas {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kSmallest = 64;
constexpr size_t kHugePage = 2 * kMiB;
// From here on sizes are whole huge pages: this is the least of which one is no more than a quarter.
constexpr size_t kWholePages = 4 * kHugePage;
// Extents of this size and more are split, into such as well, of whole pages of any machine. Smaller tensors, of which
// many live long, would keep large blocks from going back.
constexpr size_t kLarge = kMiB / 4;
constexpr size_t kLargeStep = kMiB / 16;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kExact = true;  // so that the sanitizer sees whatever lies beyond
#else
constexpr bool kExact = false;
#endif

}  // namespace

size_t ExtentSize(size_t bytes) {
  if (kExact) return std::max<size_t>(bytes, 1);
  if (bytes <= kSmallest) return kSmallest;
  const size_t least = bytes > kWholePages ? kHugePage : bytes > kLarge ? kLargeStep : kSmallest;
  const size_t step = std::max(std::bit_ceil(bytes) / 16, least);
  return (bytes + step - 1) / step * step;
}

Status BufferPool::Allocate(size_t bytes, Ticket idle_since, Ticket completed, Buffer* out) {
  const std::lock_guard lock(mutex_);
  Extent* extent = Reuse(bytes, idle_since);
  if (extent == nullptr) {
    CountHeld(completed);
    MergeIdle();
    extent = Reuse(bytes, idle_since);
  }
  if (extent == nullptr) {
    if (Status status = NewExtent(ExtentSize(bytes), completed, &extent); !status.ok()) {
      if (status.code() != StatusCode::kOutOfMemory) return status;
      return Status(StatusCode::kOutOfMemory, "out of memory on " + device_.info().id + ": " + std::to_string(bytes) +
                                                  " bytes requested, " + std::to_string(Count(completed).live) +
                                                  " in use, limit " + std::to_string(limit_) + status.message());
    }
  }
  out->extent = extent;
  out->data = extent->data;
  out->bytes = bytes;
  out->last_use = out->last_write = extent->last_use;
  AddOwned(bytes, completed);
  return {};
}

Extent* BufferPool::Reuse(size_t bytes, Ticket idle_since) {
  const size_t size = ExtentSize(bytes);
  const bool large = size >= kLarge && !kExact;
  const size_t quarter_more = large ? bytes + bytes / 4 : std::min(bytes + bytes / 4, kLarge - 1);
  const size_t most = kExact ? size : std::max(size, quarter_more);
  for (auto entry = free_.lower_bound(bytes); entry != free_.end();) {
    Extent* const extent = *entry;
    if (extent->size > most) {
      if (!large) return nullptr;
      if (extent->size < size + kLarge) {
        entry = free_.lower_bound(size + kLarge);
        continue;
      }
    }
    if (extent->last_use <= idle_since) {
      if (extent->size > most) Split(extent, size);
      Leave(extent);
      return extent;
    }
    ++entry;
  }
  return nullptr;
}

// The message of kOutOfMemory is what the device says of it.
Status BufferPool::NewExtent(size_t size, Ticket completed, Extent** extent) {
  if (size <= limit_) {
    const size_t needed = std::max({recent_.peak(), period_peak_, owned_ - wrapped_ + held_ + size});
    GiveBack(completed, std::min(limit_, Allowance(needed, reserved_ - free_bytes_ + size)) - size);
  }
  if (size > limit_ || reserved_ > limit_ - size) return Status(StatusCode::kOutOfMemory, "");
  Status status = TakeFromSystem(size, extent);
  if (status.code() == StatusCode::kOutOfMemory) {
    GiveBack(completed, 0);
    status = TakeFromSystem(size, extent);
  }
  return status.code() == StatusCode::kOutOfMemory ? Status(status.code(), "; " + status.message()) : status;
}

Status BufferPool::TakeFromSystem(size_t size, Extent** extent) {
  Extent* const made = Make(nullptr, size);
  void* data = nullptr;
  Status status = device_.AllocateRaw(size, &data);
  if (!status.ok()) {
    extents_.erase(made->self);
    return status;
  }
  made->data = static_cast<char*>(data);
  reserved_ += size;
  *extent = made;
  return {};
}

// Not free, and not counted yet.
Extent* BufferPool::Make(char* data, size_t size) {
  Extent::FreeSet one;
  Extent& extent = extents_.emplace_back();
  extent.self = std::prev(extents_.end());
  try {
    extent.node = one.extract(one.insert(&extent).first);
  } catch (...) {
    extents_.pop_back();
    throw;
  }
  extent.data = data;
  extent.size = size;
  return &extent;
}

// Leaves `size` bytes of a free extent and makes another free one of the rest.
void BufferPool::Split(Extent* extent, size_t size) {
  Extent* const rest = Make(extent->data + size, extent->size - size);
  const bool held = extent->held;
  Leave(extent);
  rest->before = extent;
  rest->after = extent->after;
  if (rest->after != nullptr) rest->after->before = rest;
  rest->last_use = extent->last_use;
  rest->bytes = extent->bytes - std::min(extent->bytes, size);
  extent->bytes = std::min(extent->bytes, size);
  extent->after = rest;
  extent->size = size;
  Enter(rest, held);
  Enter(extent, held);
}

// Neighbours that no task uses any more, as far as CountHeld has seen, become one.
void BufferPool::MergeIdle() {
  for (Extent *extent = oldest_, *next = nullptr; extent != nullptr; extent = next) {
    next = extent->newer;
    if (extent->held) continue;
    while (extent->after != nullptr && extent->after->free && !extent->after->held) {
      Extent* const rest = extent->after;
      if (rest == next) next = rest->newer;
      Leave(rest);
      auto node = free_.extract(extent->place);
      extent->size += rest->size;
      extent->bytes = 0;
      extent->last_use = std::max(extent->last_use, rest->last_use);
      extent->after = rest->after;
      if (extent->after != nullptr) extent->after->before = extent;
      free_bytes_ += rest->size;
      extent->place = free_.insert(std::move(node)).position;
      extents_.erase(rest->self);
    }
  }
}

// It is free from now on.
void BufferPool::Enter(Extent* extent, bool held) noexcept {
  extent->freed = frees_++;
  extent->free = true;
  extent->held = held;
  if (held) held_ += extent->bytes;
  free_bytes_ += extent->size;
  extent->place = free_.insert(std::move(extent->node)).position;
  extent->older = newest_;
  extent->newer = nullptr;
  (newest_ == nullptr ? oldest_ : newest_->newer) = extent;
  newest_ = extent;
}

void BufferPool::Leave(Extent* extent) noexcept {
  if (extent->held) held_ -= extent->bytes;
  extent->free = extent->held = false;
  free_bytes_ -= extent->size;
  extent->node = free_.extract(extent->place);
  (extent->older == nullptr ? oldest_ : extent->older->newer) = extent->newer;
  (extent->newer == nullptr ? newest_ : extent->newer->older) = extent->older;
}

// What may be reserved where as much as `needed` has been live lately, and extents of `used` bytes are: twice that,
// of large amounts half of it more; and a little, so that small tensors always come from what is free.
size_t BufferPool::Allowance(size_t needed, size_t used) {
  return std::max(std::min(2 * needed, needed + needed / 2 + 8 * kMiB), used + 4 * kMiB);
}

bool BufferPool::MayFit(size_t bytes) const {
  const size_t size = ExtentSize(bytes);
  const std::lock_guard lock(mutex_);
  return size <= limit_ && reserved_ - free_bytes_ <= limit_ - size;
}

void BufferPool::Free(const Buffer& buffer) noexcept {
  const std::lock_guard lock(mutex_);
  owned_ -= buffer.bytes;
  if (buffer.extent == nullptr) return;
  buffer.extent->bytes = buffer.bytes;
  buffer.extent->last_use = buffer.last_use;
  Enter(buffer.extent, true);
}

void BufferPool::Own(size_t bytes, Ticket completed) {
  const std::lock_guard lock(mutex_);
  wrapped_ += bytes;
  AddOwned(bytes, completed);
}

void BufferPool::Disown(size_t bytes) {
  const std::lock_guard lock(mutex_);
  wrapped_ -= bytes;
  owned_ -= bytes;
}

void BufferPool::AddOwned(size_t bytes, Ticket completed) {
  owned_ += bytes;
  const size_t worth_counting = period_peak_ + std::max(period_peak_ / 8, kMiB / 16);
  if (owned_ + held_ <= peak_ && owned_ - wrapped_ + held_ <= worth_counting) return;
  CountHeld(completed);
  peak_ = std::max(peak_, owned_ + held_);
  period_peak_ = std::max(period_peak_, owned_ - wrapped_ + held_);
}

MemoryUse BufferPool::Use(Ticket completed) {
  const std::lock_guard lock(mutex_);
  return Count(completed);
}

MemoryUse BufferPool::Count(Ticket completed) {
  CountHeld(completed);
  peak_ = std::max(peak_, owned_ + held_);
  return {owned_ + held_, peak_, reserved_};
}

void BufferPool::CountHeld(Ticket completed) {
  held_ = 0;
  for (Extent* extent = oldest_; extent != nullptr; extent = extent->newer) {
    extent->held = extent->last_use > completed;
    if (extent->held) held_ += extent->bytes;
  }
}

void BufferPool::Trim(Ticket completed) {
  const std::lock_guard lock(mutex_);
  CountHeld(completed);
  MergeIdle();
  GiveBack(completed, 0);
}

bool BufferPool::EndPeriod(Ticket submitted) {
  const std::lock_guard lock(mutex_);
  if (submitted == period_begin_) return false;
  period_begin_ = submitted;
  recent_.Add(std::exchange(period_peak_, owned_ - wrapped_));
  recent_scratch_.Add(device_.TakeScratchPeak());
  const DeviceReserve beside = device_.reserve();
  return ExceedsAllowance(beside.idle) || ScratchExceeds(beside);
}

void BufferPool::Shrink(Ticket completed) {
  std::unique_lock lock(mutex_);
  CountHeld(completed);
  MergeIdle();
  while (ExceedsAllowance(0)) {
    Extent* const oldest = OldestReturnable(completed);
    if (oldest == nullptr) break;
    const auto [data, size] = Forget(oldest);
    lock.unlock();  // returning pages takes time, which the environment's thread need not wait for
    device_.FreeRaw(data, size);
    lock.lock();
  }
  const size_t scratch = ScratchExceeds(device_.reserve()) ? recent_scratch_.peak() : ~size_t{0};
  lock.unlock();
  device_.TrimTo(scratch);
}

Extent* BufferPool::OldestReturnable(Ticket completed) const {
  Extent* extent = oldest_;
  while (extent != nullptr && !Returnable(*extent, completed)) extent = extent->newer;
  return extent;
}

std::pair<void*, size_t> BufferPool::Forget(Extent* extent) noexcept {
  Leave(extent);
  if (extent->before != nullptr) extent->before->after = nullptr;
  if (extent->after != nullptr) extent->after->before = nullptr;
  reserved_ -= extent->size;
  const std::pair<void*, size_t> memory{extent->data, extent->size};
  extents_.erase(extent->self);
  return memory;
}

void BufferPool::GiveBack(Ticket completed, size_t most) {
  for (Extent *extent = oldest_, *next = nullptr; extent != nullptr && reserved_ > most; extent = next) {
    next = extent->newer;
    if (!Returnable(*extent, completed)) continue;
    const auto [data, size] = Forget(extent);
    device_.FreeRaw(data, size);
  }
}

}  // namespace sas
