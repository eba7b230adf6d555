#include "cpu/thread_pool.h"

namespace sas::cpu {
namespace {

// Parallel loops follow each other within microseconds inside a training step, so a worker looks for the next one for a
// moment (about 50 us) before it sleeps.
constexpr int kSpins = 2000;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : ranges_(static_cast<size_t>(threads)) {
  try {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { Work(thread); });
  } catch (...) {
    Stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  stopping_ = true;
  ++generation_;
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t items, LoopBody body) {
  if (workers_.empty() || items == 1) {
    for (int64_t item = 0; item < items && !cancelled(); ++item) body(item, 0);
  } else {
    body_ = &body;
    for (int64_t thread = 0, begin = 0; thread < threads(); ++thread) {
      Range& range = ranges_[static_cast<size_t>(thread)];
      range.next = begin;
      begin += (items - begin) / (threads() - thread);
      range.end = begin;
    }
    open_ = true;
    ++generation_;
    generation_.notify_all();
    Drain(0);
    open_ = false;
    while (inside_ != 0) Pause();
  }
  if (cancelled()) throw Cancelled{};
}

void ThreadPool::Work(int thread) {
  uint32_t seen = 0;
  while (true) {
    for (int spin = 0; spin < kSpins && generation_ == seen; ++spin) Pause();
    generation_.wait(seen);
    if (stopping_) return;
    seen = generation_;
    ++inside_;
    if (open_) Drain(thread);
    --inside_;
  }
}

void ThreadPool::Drain(int thread) {
  for (int i = 0; i < threads(); ++i) {
    Range& range = ranges_[static_cast<size_t>((thread + i) % threads())];
    while (range.next < range.end && !cancelled()) {
      const int64_t item = range.next++;
      if (item < range.end) (*body_)(item, thread);
    }
  }
}

}  // namespace sas::cpu
