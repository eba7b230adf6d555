#include "core/queue.h"

#include <new>

namespace sas {
namespace {

Status OutcomeOf(std::future<Status>& after) {
  try {
    return after.get();
  } catch (const std::future_error&) {  // broken promise: the task was dropped
    return Status(StatusCode::kDevice, "the work it depends on was dropped at shutdown");
  }
}

}  // namespace

Queue::Queue() : executor_([this] { Execute(); }) {}

Queue::~Queue() {
  Stop();
  executor_.join();
}

void Queue::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
}

void Queue::Submit(Task task, bool brief) {
  const bool idle = completed() == submitted_ && waiting_.load(std::memory_order_acquire) == 0;
  const Ticket ticket = ++submitted_;
  for (const BufferRef& buffer : task.reads) buffer->last_use = ticket;
  for (const BufferRef& buffer : task.writes) buffer->last_use = buffer->last_write = ticket;
  if (brief && idle) {
    Run(task);
    completed_.store(ticket, std::memory_order_release);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void Queue::Wait(Ticket ticket, std::function<void()> ready) {
  ++waiting_;
  {
    std::lock_guard lock(mutex_);
    waiters_.emplace(ticket, std::move(ready));
  }
  wake_.notify_one();
}

void Queue::Execute() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const Ticket completed = completed_.load(std::memory_order_relaxed);
    if (!waiters_.empty() && waiters_.begin()->first <= completed) {
      auto waiter = waiters_.extract(waiters_.begin());
      lock.unlock();
      waiter.mapped()();
      --waiting_;
      lock.lock();
    } else if (!tasks_.empty()) {
      Task task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      Run(task);
      task = {};  // releases its buffers outside the lock
      completed_.store(completed + 1, std::memory_order_release);
      lock.lock();
    } else {
      wake_.wait(lock);
    }
  }
  tasks_.clear();  // now, so that tasks of other queues do not wait for these
}

void Queue::Run(Task& task) {
  Status status;
  if (task.after.valid()) status = OutcomeOf(task.after);
  for (const BufferRef& buffer : task.reads) {
    if (!status.ok()) break;
    status = buffer->failure;
  }
  if (status.ok()) {
    try {
      status = task.run();
    } catch (const std::bad_alloc&) {
      status = Status(StatusCode::kOutOfMemory, "out of memory for scratch space");
    }
    if (!status.ok()) status = Status(status.code(), std::string(task.name) + ": " + status.message());
    if (!status.ok() && failure_.ok()) failure_ = status;
  }
  for (const BufferRef& buffer : task.writes) buffer->failure = status;
  if (task.outcome) task.outcome->set_value(status);
}

}  // namespace sas
