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

// A bump allocator for the operation that runs. Memory stays mapped (and warm in cache) for the next one.
class Scratch {
 public:
  explicit Scratch(Pages& pages) : pages_(pages) {}
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Uninitialised, 64-byte aligned, until the operation ends. Throws std::bad_alloc, which fails the operation. Call it
  // before a parallel loop, not inside.
  float* Take(int64_t floats);
  // Gives back what was taken since the mark.
  struct Mark {
    size_t chunk, used, taken;
  };
  Mark mark() const { return {current_, used_, taken_}; }
  void Rewind(Mark mark) {
    current_ = mark.chunk;
    used_ = mark.used;
    taken_ = mark.taken;
  }
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
  void Grow(size_t capacity);
  void FreeAll();

  Pages& pages_;
  std::function<void()> reclaim_;
  std::vector<Chunk> chunks_;
  size_t current_ = 0;  // the chunk that memory is taken from
  size_t used_ = 0;     // bytes of it
  size_t taken_ = 0;    // bytes of all chunks
  size_t most_ = 0;     // the most that `taken_` has been in this operation
  std::atomic<size_t> peak_{0}, bytes_{0};
};

class CpuContext : public Context {
 public:
  explicit CpuContext(int threads, Cgroup cgroup = Cgroup()) : pool(threads), pages(std::move(cgroup)) {}
  ThreadPool pool;
  Pages pages;
  Scratch scratch{pages};
};

}  // namespace sas::cpu
