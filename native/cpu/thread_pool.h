// Threads that share one parallel loop at a time with the thread that starts it.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace sas::cpu {

// A reference to a callable `void(int64_t item, int thread)`; must not outlive it.
class LoopBody {
 public:
  template <class F>
  LoopBody(const F& body)  // NOLINT: implicit on purpose
      : object_(&body),
        call_([](const void* object, int64_t item, int thread) { (*static_cast<const F*>(object))(item, thread); }) {}
  void operator()(int64_t item, int thread) const { call_(object_, item, thread); }

 private:
  const void* object_;
  void (*call_)(const void*, int64_t, int);
};

// Thrown by loops of a pool that has been cancelled: what they should have computed is not there.
struct Cancelled {};

class ThreadPool {
 public:
  // `threads` counts the caller of Run. Throws std::system_error when the system gives no more threads.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(item, thread) for every item in [0, items), each once; 0 <= thread < threads(). Each thread goes through
  // a range of its own, in increasing order, and then helps with the others': what a thread wrote in one loop it finds
  // in its own cache in the next, if neighbouring items mean neighbouring memory in both. The body must not throw, and
  // what it computes for an item must not depend on `thread`, which only picks scratch memory. Throws Cancelled.
  void Run(int64_t items, LoopBody body);

  // The loop that runs starts no more items, nor does any later one. Any thread. Bodies whose items take long end early
  // themselves where they see it.
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  // The items that are left of a thread's range; on a cache line of its own, since the others only look at it when
  // theirs are done.
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void Work(int thread);
  void Drain(int thread);
  void Stop();

  std::vector<Range> ranges_;  // [threads]
  std::vector<std::thread> workers_;
  // A worker may join a loop that is open. To close it, Run clears `open_` and waits until nobody is inside; entering
  // is "inside_ += 1, then look at open_", so one of the two always sees the other (sequentially consistent).
  std::atomic<uint32_t> generation_{0};
  std::atomic<bool> open_{false}, stopping_{false}, cancelled_{false};
  std::atomic<int> inside_{0};
  const LoopBody* body_ = nullptr;
};

}  // namespace sas::cpu
