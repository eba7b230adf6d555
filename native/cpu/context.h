// What CPU operations run on: the thread pool, and scratch memory that is recycled from one operation to the next.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <new>
#include <utility>
#include <vector>

#include "core/device.h"
#include "cpu/pages.h"
#include "cpu/thread_pool.h"

namespace sas::cpu {

// Scratch memory of one operation for each thread.
class ThreadBlocks {
 public:
  explicit ThreadBlocks(std::vector<float*> blocks) : blocks_(std::move(blocks)) {}
  float* operator[](int thread) const { return blocks_[static_cast<size_t>(thread)]; }

 private:
  std::vector<float*> blocks_;  // [threads]
};

// Bump allocators for the operation that runs: one for what threads share, and one for each thread. Memory stays mapped
// for the next operation, and a thread's stays in the cache of its processor.
class Scratch {
 public:
  Scratch(Pages& pages, int threads) : pages_(pages), arenas_(static_cast<size_t>(threads) + 1) {}
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Uninitialised, 64-byte aligned, until the operation ends. Throws std::bad_alloc, which fails the operation. Call it
  // before a parallel loop, not inside.
  float* Take(int64_t floats) { return TakeFrom(arenas_[0], floats); }
  // The same for each thread of the pool.
  ThreadBlocks TakeEach(int64_t floats);
  // Gives back what was taken since the mark.
  struct Position {
    size_t chunk = 0;  // the one that memory is taken from
    size_t used = 0;   // bytes of it
    size_t taken = 0;  // bytes of all chunks
  };
  using Mark = std::vector<Position>;
  Mark mark() const;
  void Rewind(const Mark& mark);
  // Forgets everything taken; `poison` fills the memory with NaN so that a test sees what is read before it is written.
  void Reset(bool poison);
  // Gives memory back to the system, but for as much as an operation that takes `keep` has use for. Between operations.
  void TrimTo(size_t keep);
  size_t bytes() const { return bytes_; }
  // The most that one operation has taken since the last call. Any thread.
  size_t TakePeak() { return peak_.exchange(0, std::memory_order_relaxed); }
  // See Device::SetReclaim.
  void SetReclaim(std::function<void()> reclaim) { reclaim_ = std::move(reclaim); }

 private:
  struct Chunk {
    char* data;
    size_t capacity;
  };
  struct Arena {
    std::vector<Chunk> chunks;
    Position at;
    size_t most = 0;  // the most that has been taken in this operation
  };
  float* TakeFrom(Arena& arena, int64_t floats);
  void Grow(Arena& arena, size_t bytes);
  void Free(Arena& arena);

  Pages& pages_;
  std::function<void()> reclaim_;
  std::vector<Arena> arenas_;  // the shared one, then those of threads
  size_t taken_ = 0;           // bytes of all arenas
  std::atomic<size_t> peak_{0}, bytes_{0};
};

class CpuContext : public Context {
 public:
  explicit CpuContext(int threads, Cgroup cgroup = Cgroup()) : pool(threads), pages(std::move(cgroup)) {}
  ThreadPool pool;
  Pages pages;
  Scratch scratch{pages, pool.threads()};
};

}  // namespace sas::cpu
