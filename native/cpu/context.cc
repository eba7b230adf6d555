#include "cpu/context.h"

#include <algorithm>

#include "core/buffer.h"

namespace sas::cpu {
namespace {
constexpr size_t kSmallestChunk = size_t{1} << 18;
}  // namespace

Scratch::~Scratch() {
  for (Arena& arena : arenas_) Free(arena);
}

ThreadBlocks Scratch::TakeEach(int64_t floats) {
  std::vector<float*> blocks;
  for (size_t i = 1; i < arenas_.size(); ++i) blocks.push_back(TakeFrom(arenas_[i], floats));
  return ThreadBlocks(std::move(blocks));
}

float* Scratch::TakeFrom(Arena& arena, int64_t floats) {
  const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
  Position& at = arena.at;
  while (at.chunk < arena.chunks.size() && at.used + bytes > arena.chunks[at.chunk].capacity) {
    ++at.chunk;
    at.used = 0;
  }
  if (at.chunk == arena.chunks.size()) Grow(arena, bytes);
  float* data = reinterpret_cast<float*>(arena.chunks[at.chunk].data + at.used);
  at.used += bytes;
  at.taken += bytes;
  arena.most = std::max(arena.most, at.taken);
  taken_ += bytes;
  if (taken_ > peak_.load(std::memory_order_relaxed)) peak_.store(taken_, std::memory_order_relaxed);
  return data;
}

Scratch::Mark Scratch::mark() const {
  Mark mark;
  for (const Arena& arena : arenas_) mark.push_back(arena.at);
  return mark;
}

void Scratch::Rewind(const Mark& mark) {
  for (size_t i = 0; i < arenas_.size(); ++i) {
    taken_ -= arenas_[i].at.taken - mark[i].taken;
    arenas_[i].at = mark[i];
  }
}

void Scratch::Reset(bool poison) {
  for (Arena& arena : arenas_) {
    if (arena.chunks.size() > 1) {
      Free(arena);
      Grow(arena, arena.most);
    }
    arena.at = {};
    arena.most = 0;
    if (poison && !arena.chunks.empty()) memset(arena.chunks[0].data, 0xff, arena.chunks[0].capacity);
  }
  taken_ = 0;
}

void Scratch::TrimTo(size_t keep) {
  const bool all = keep < bytes_;  // the next operation takes what it needs
  for (Arena& arena : arenas_) {
    if (all) Free(arena);
    arena.at = {};
    arena.most = 0;
  }
  taken_ = 0;
}

void Scratch::Grow(Arena& arena, size_t bytes) {
  const size_t capacity = ExtentSize(std::max(bytes, kSmallestChunk));
  void* data = nullptr;
  bool ok = pages_.Allocate(capacity, &data).ok();
  if (!ok && reclaim_) {
    reclaim_();
    ok = pages_.Allocate(capacity, &data).ok();
  }
  if (!ok) throw std::bad_alloc();
  arena.chunks.push_back({static_cast<char*>(data), capacity});
  bytes_ += capacity;
}

void Scratch::Free(Arena& arena) {
  for (const Chunk& chunk : arena.chunks) {
    pages_.Free(chunk.data, chunk.capacity);
    bytes_ -= chunk.capacity;
  }
  arena.chunks.clear();
}

}  // namespace sas::cpu
