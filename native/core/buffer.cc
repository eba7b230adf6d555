#include "core/buffer.h"

#include <algorithm>
#include <bit>

namespace sas {
namespace {

constexpr size_t kSmallestBlock = 64;

size_t BlockCapacity(size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  return std::max<size_t>(bytes, 1);  // so that the sanitizer sees whatever lies beyond
#endif
  if (bytes <= kSmallestBlock) return kSmallestBlock;
  const size_t step = std::max(std::bit_ceil(bytes) / 16, kSmallestBlock);
  return (bytes + step - 1) / step * step;
}

}  // namespace

Status BufferPool::Allocate(size_t bytes, Ticket idle_since, Ticket completed, Buffer* out) {
  const size_t capacity = BlockCapacity(bytes);
  const std::lock_guard lock(mutex_);
  void* data = nullptr;
  Ticket last_use = 0;
  if (auto entry = classes_.find(capacity); entry != classes_.end()) {
    auto& blocks = entry->second.free;
    // The most recently freed block first: it is the likeliest to be in cache.
    auto block = std::find_if(blocks.rbegin(), blocks.rend(),
                              [&](const FreeBlock& free) { return free.last_use <= idle_since; });
    if (block != blocks.rend()) {
      Forget(*block);
      data = block->data;
      last_use = block->last_use;
      blocks.erase(std::next(block).base());
    }
  }
  if (data == nullptr) {
    if (capacity <= limit_ && reserved_ + capacity > limit_) GiveBack(completed);
    if (capacity <= limit_ && reserved_ + capacity <= limit_) {
      Status status = NewBlock(capacity, &data);
      if (status.code() == StatusCode::kOutOfMemory) {
        GiveBack(completed);
        status = NewBlock(capacity, &data);
      }
      if (!status.ok() && status.code() != StatusCode::kOutOfMemory) return status;
    }
    if (data == nullptr) {
      return Status(StatusCode::kOutOfMemory, "out of memory on " + device_.info().id + ": " + std::to_string(bytes) +
                                                  " bytes requested, " + std::to_string(Count(completed).live) +
                                                  " in use, limit " + std::to_string(limit_));
    }
    reserved_ += capacity;
  }
  out->data = data;
  out->bytes = bytes;
  out->capacity = capacity;
  out->last_use = out->last_write = last_use;
  AddOwned(bytes, completed);
  return {};
}

bool BufferPool::MayFit(size_t bytes) const {
  const size_t capacity = BlockCapacity(bytes);
  const std::lock_guard lock(mutex_);
  size_t left = reserved_;
  for (const auto& [size, size_class] : classes_) left -= size * size_class.free.size();
  return capacity <= limit_ && left <= limit_ - capacity;
}

Status BufferPool::NewBlock(size_t capacity, void** data) {
  SizeClass& size_class = classes_[capacity];
  if (size_class.free.capacity() == size_class.blocks) size_class.free.reserve(2 * size_class.blocks + 1);
  Status status = device_.AllocateRaw(capacity, data);
  if (status.ok()) ++size_class.blocks;
  return status;
}

void BufferPool::Free(const Buffer& buffer) noexcept {
  const std::lock_guard lock(mutex_);
  owned_ -= buffer.bytes;
  if (buffer.capacity == 0) return;
  classes_.find(buffer.capacity)->second.free.push_back({buffer.data, buffer.bytes, buffer.last_use, true});
  held_ += buffer.bytes;
}

void BufferPool::Own(size_t bytes, Ticket completed) {
  const std::lock_guard lock(mutex_);
  AddOwned(bytes, completed);
}

void BufferPool::Disown(size_t bytes) {
  const std::lock_guard lock(mutex_);
  owned_ -= bytes;
}

void BufferPool::AddOwned(size_t bytes, Ticket completed) {
  owned_ += bytes;
  if (owned_ + held_ <= peak_) return;
  CountHeld(completed);
  peak_ = std::max(peak_, owned_ + held_);
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
  for (auto& [capacity, size_class] : classes_) {
    for (FreeBlock& block : size_class.free) {
      block.held = block.last_use > completed;
      if (block.held) held_ += block.bytes;
    }
  }
}

void BufferPool::Trim(Ticket completed) {
  const std::lock_guard lock(mutex_);
  GiveBack(completed);
}

void BufferPool::GiveBack(Ticket completed) {
  for (auto& [capacity, size_class] : classes_) {
    size_class.blocks -= std::erase_if(size_class.free, [&, size = capacity](const FreeBlock& block) {
      if (block.last_use > completed) return false;
      Forget(block);
      device_.FreeRaw(block.data, size);
      reserved_ -= size;
      return true;
    });
  }
  std::erase_if(classes_, [](const auto& entry) { return entry.second.blocks == 0; });
}

}  // namespace sas
