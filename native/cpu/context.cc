#include "cpu/context.h"

#include <algorithm>

#include "cpu/pages.h"

namespace sas::cpu {
namespace {
constexpr size_t kSmallestChunk = size_t{1} << 20;
}  // namespace

Scratch::~Scratch() { FreeAll(); }

float* Scratch::Take(int64_t floats) {
  const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
  while (current_ < chunks_.size() && used_ + bytes > chunks_[current_].capacity) {
    ++current_;
    used_ = 0;
  }
  if (current_ == chunks_.size()) Grow(std::max(bytes, kSmallestChunk));
  float* data = reinterpret_cast<float*>(chunks_[current_].data + used_);
  used_ += bytes;
  return data;
}

void Scratch::Reset(bool poison) {
  if (chunks_.size() > 1) {
    const size_t total = bytes_;
    FreeAll();
    Grow(total);
  }
  current_ = used_ = 0;
  if (poison && !chunks_.empty()) memset(chunks_[0].data, 0xff, chunks_[0].capacity);
}

void Scratch::Grow(size_t capacity) {
  char* data = static_cast<char*>(AllocatePages(capacity));
  if (data == nullptr && reclaim_) {
    reclaim_();
    data = static_cast<char*>(AllocatePages(capacity));
  }
  if (data == nullptr) throw std::bad_alloc();
  chunks_.push_back({data, capacity});
  bytes_ += capacity;
}

void Scratch::FreeAll() {
  for (const Chunk& chunk : chunks_) FreePages(chunk.data, chunk.capacity);
  chunks_.clear();
  bytes_ = 0;
}

}  // namespace sas::cpu
