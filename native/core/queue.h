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
  std::vector<BufferRef> writes;  // whole, whatever they held
  std::function<Status()> run;
  std::vector<BufferRef> updates = {};  // read, then written in place
  // Judges what `run` has written; may copy from the device. Null: no judgement.
  std::function<Status()> inspect = {};
  // Between two queues: what becomes of one task, run or not, goes into its `outcome`, and a task of the other queue
  // waits for that as its `after` and carries a failure on. A task waits only for one that the same thread submitted
  // earlier, so the earliest task that is not done waits for none, and there is no deadlock.
  std::future<Status> after = {};
  std::optional<std::promise<Status>> outcome = {};
};

// Tasks run one after another in the order of submission. A task whose input failed does not run: what it would have
// written carries the same failure on, what it would have updated in place keeps its content, and TakeFailure tells. A
// task that the device has yet to check leaves a pending check on its outputs, which they hand on; the next wait makes
// a failure of it or drops it, and until then the device itself keeps updates in place from happening (Device::Guard).
// A task runs out of memory before it writes. A Submit or Wait that throws (std::bad_alloc) has done nothing. Submit,
// Wait, Stop and the destructor belong to the environment's thread.
class Queue {
 public:
  explicit Queue(Device& device);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Work of microseconds may run inline, at once on this thread, when the queue is idle: waking another costs more.
  void Submit(Task task, bool run_inline = false);
  // Calls `ready` on the executor thread once `ticket` is completed and before any task submitted after this call runs;
  // if it returns false, again between tasks, until it returns true. Never called if the queue is destroyed first.
  void Wait(Ticket ticket, std::function<bool()> ready);

  // Finishes the task that runs, drops the others, does not wait for it (the destructor does): where tasks wait for
  // those of other queues, stop all queues before destroying one.
  void Stop();

  Ticket submitted() const { return submitted_; }
  Ticket completed() const { return completed_.load(std::memory_order_acquire); }
  // Takes the results of the device's checks, after each CopyToHost or Synchronize. Executor thread.
  void CollectCheckResults();
  // Why the content of `buffer` is not what it should be, as far as is known. As Buffer::failure.
  Status FailureOf(const Buffer& buffer) const {
    return buffer.failure.ok() ? FailureOf(buffer.pending_checks) : buffer.failure;
  }
  // The checks that the content of `buffer` depends on and that nobody has waited for, by the names of their tasks, and
  // the failure among their results (Device::Fetch), if there is one. Executor thread.
  using OpenChecks = std::vector<std::pair<size_t, const char*>>;
  OpenChecks OpenChecksOf(const Buffer& buffer) const;
  static Status FailureOf(const OpenChecks& checks, const std::vector<Status>& results);
  // The first failure since the last call. Executor thread, or when all is completed.
  Status TakeFailure() { return std::exchange(failure_, Status()); }

 private:
  void Execute();
  void Poll();
  void Run(Task& task) noexcept;
  void RunChecked(Task& task);
  Status MakeRoom();
  Status FailureOf(const PendingChecks& pending) const;
  void Note(const Status& failure) {
    if (failure_.ok()) failure_ = failure;
  }

  Device& device_;
  Ticket submitted_ = 0;
  std::atomic<Ticket> completed_{0};
  std::atomic<int> waiting_{0};  // waiters that are not ready yet
  Status failure_;

  // Of the executor thread, as Buffer::pending_checks.
  uint64_t period_ = 1;              // counts waits that brought results of checks
  std::vector<const char*> checks_;  // the tasks' names, of this period
  // By period: the checks that failed. As many as operations ever failed, which are few.
  std::map<uint64_t, std::vector<std::pair<size_t, Status>>> failed_checks_;
  std::multimap<Ticket, std::function<bool()>> polled_;  // waiters to be called again, by when they were called first

  std::mutex mutex_;  // guards the next three
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  std::multimap<Ticket, std::function<bool()>> waiters_;
  bool stopping_ = false;

  std::thread executor_;
};

}  // namespace sas
