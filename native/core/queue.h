// The ordered queue of work of one device, with an executor thread of its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/buffer.h"

namespace sas {

using BufferRef = std::shared_ptr<Buffer>;

struct Task {
  const char* name;
  std::vector<BufferRef> reads;
  std::vector<BufferRef> writes;
  std::function<Status()> run;
  // Between two queues: what becomes of one task, run or not, goes into its `outcome`, and a task of the other queue
  // waits for that as its `after` and carries a failure on. A task waits only for one that the same thread submitted
  // earlier, so the earliest task that is not done waits for none, and there is no deadlock.
  std::future<Status> after = {};
  std::optional<std::promise<Status>> outcome = {};
};

// Tasks run one after another in the order of submission. A task whose input failed does not run; its outputs carry the
// same failure on. Submit, Wait, Stop and the destructor belong to the environment's thread.
class Queue {
 public:
  Queue();
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // `brief` work (microseconds) runs at once on this thread when the queue is idle: waking another costs more.
  void Submit(Task task, bool brief = false);
  // Calls `ready` on the executor thread once `ticket` is completed and before any task submitted after this call runs.
  // Never called if the queue is destroyed first.
  void Wait(Ticket ticket, std::function<void()> ready);

  // Finishes the task that runs, drops the others, does not wait for it (the destructor does): where tasks wait for
  // those of other queues, stop all queues before destroying one.
  void Stop();

  Ticket submitted() const { return submitted_; }
  Ticket completed() const { return completed_.load(std::memory_order_acquire); }
  // The first failure since the last call. Executor thread, or when all is completed.
  Status TakeFailure() { return std::exchange(failure_, Status()); }

 private:
  void Execute();
  void Run(Task& task);

  Ticket submitted_ = 0;
  std::atomic<Ticket> completed_{0};
  std::atomic<int> waiting_{0};  // waiters that have not returned yet
  Status failure_;

  std::mutex mutex_;  // guards the next three
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  std::multimap<Ticket, std::function<void()>> waiters_;
  bool stopping_ = false;

  std::thread executor_;
};

}  // namespace sas
