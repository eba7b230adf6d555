#include "cpu/context.h"

#include <algorithm>

#include "core/buffer.h"

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
  if (current_ == chunks_.size()) Grow(bytes);
  float* data = reinterpret_cast<float*>(chunks_[current_].data + used_);
  used_ += bytes;
  taken_ += bytes;
  most_ = std::max(most_, taken_);
  if (most_ > peak_.load(std::memory_order_relaxed)) peak_.store(most_, std::memory_order_relaxed);
  return data;
}

void Scratch::Reset(bool poison) {
  if (chunks_.size() > 1) {
    FreeAll();
    Grow(most_);
  }
  current_ = used_ = taken_ = most_ = 0;
  if (poison && !chunks_.empty()) memset(chunks_[0].data, 0xff, chunks_[0].capacity);
}

void Scratch::TrimTo(size_t keep) {
  if (keep < bytes_) FreeAll();  // the next operation takes what it needs
  current_ = used_ = taken_ = most_ = 0;
}

void Scratch::Grow(size_t bytes) {
  const size_t capacity = ExtentSize(std::max(bytes, kSmallestChunk));
  void* data = nullptr;
  bool ok = pages_.Allocate(capacity, &data).ok();
  if (!ok && reclaim_) {
    reclaim_();
    ok = pages_.Allocate(capacity, &data).ok();
  }
  if (!ok) throw std::bad_alloc();
  chunks_.push_back({static_cast<char*>(data), capacity});
  bytes_ += capacity;
}

void Scratch::FreeAll() {
  for (const Chunk& chunk : chunks_) pages_.Free(chunk.data, chunk.capacity);
  chunks_.clear();
  bytes_ = 0;
}

}  // namespace sas::cpu
