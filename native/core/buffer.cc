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
  void* data = nullptr;
  Ticket last_use = 0;
  if (auto entry = classes_.find(capacity); entry != classes_.end()) {
    auto& blocks = entry->second.free;
    // The most recently freed block first: it is the likeliest to be in cache.
    auto block = std::find_if(blocks.rbegin(), blocks.rend(),
                              [&](const FreeBlock& free) { return free.last_use <= idle_since; });
    if (block != blocks.rend()) {
      data = block->data;
      last_use = block->last_use;
      blocks.erase(std::next(block).base());
    }
  }
  if (data == nullptr) {
    if (capacity <= limit_ && use_.reserved + capacity > limit_) Trim(completed);
    if (capacity <= limit_ && use_.reserved + capacity <= limit_) {
      Status status = NewBlock(capacity, &data);
      if (status.code() == StatusCode::kOutOfMemory) {
        Trim(completed);
        status = NewBlock(capacity, &data);
      }
      if (!status.ok() && status.code() != StatusCode::kOutOfMemory) return status;
    }
    if (data == nullptr) {
      return Status(StatusCode::kOutOfMemory, "out of memory on " + device_.info().id + ": " + std::to_string(bytes) +
                                                  " bytes requested, " + std::to_string(use_.live) + " in use, limit " +
                                                  std::to_string(limit_));
    }
    use_.reserved += capacity;
  }
  out->data = data;
  out->bytes = bytes;
  out->capacity = capacity;
  out->last_use = out->last_write = last_use;
  Count(static_cast<ptrdiff_t>(bytes));
  return {};
}

Status BufferPool::NewBlock(size_t capacity, void** data) {
  SizeClass& size_class = classes_[capacity];
  if (size_class.free.capacity() == size_class.blocks) size_class.free.reserve(2 * size_class.blocks + 1);
  Status status = device_.AllocateRaw(capacity, data);
  if (status.ok()) ++size_class.blocks;
  return status;
}

void BufferPool::Free(const Buffer& buffer) noexcept {
  Count(-static_cast<ptrdiff_t>(buffer.bytes));
  if (buffer.capacity != 0) classes_.find(buffer.capacity)->second.free.push_back({buffer.data, buffer.last_use});
}

void BufferPool::Count(ptrdiff_t bytes) {
  use_.live += static_cast<size_t>(bytes);
  use_.peak = std::max(use_.peak, use_.live);
}

void BufferPool::Trim(Ticket completed) {
  for (auto& [capacity, size_class] : classes_) {
    size_class.blocks -= std::erase_if(size_class.free, [&, size = capacity](const FreeBlock& block) {
      if (block.last_use > completed) return false;
      device_.FreeRaw(block.data, size);
      use_.reserved -= size;
      return true;
    });
  }
  std::erase_if(classes_, [](const auto& entry) { return entry.second.blocks == 0; });
}

}  // namespace sas
