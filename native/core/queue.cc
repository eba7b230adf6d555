#include "core/queue.h"

#include <algorithm>
#include <chrono>
#include <new>

#if defined(__linux__) && defined(__GLIBCXX__)
// std::condition_variable::wait has a new symbol version since GCC 12; the old one works on, and older systems have it.
__asm__(
    ".symver _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE,"
    "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");
#endif

namespace sas {
namespace {

Status OutcomeOf(std::future<Status>& after) {
  try {
    return after.get();
  } catch (const std::future_error&) {  // broken promise: the task was dropped
    return Status(StatusCode::kDevice, "the work it depends on was dropped at shutdown");
  }
}

Status Named(const char* task, const Status& status) {
  return Status(status.code(), std::string(task) + ": " + status.message());
}

}  // namespace

Queue::Queue(Device& device) : device_(device), executor_([this] { Execute(); }) {}

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

void Queue::Submit(Task task, bool run_inline) {
  const bool idle = completed() == submitted_ && waiting_.load(std::memory_order_acquire) == 0;
  const Ticket ticket = submitted_ + 1;
  const auto mark = [ticket](const Task& accepted) {
    for (const BufferRef& buffer : accepted.reads) buffer->last_use = ticket;
    for (const auto* written : {&accepted.writes, &accepted.updates}) {
      for (const BufferRef& buffer : *written) buffer->last_use = buffer->last_write = ticket;
    }
  };
  if (run_inline && idle) {
    mark(task);
    Run(task);
    submitted_ = ticket;
    completed_.store(ticket, std::memory_order_release);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    mark(tasks_.back());
    submitted_ = ticket;
  }
  wake_.notify_one();
}

void Queue::Wait(Ticket ticket, std::function<bool()> ready) {
  {
    std::lock_guard lock(mutex_);
    waiters_.emplace(ticket, std::move(ready));
    ++waiting_;
  }
  wake_.notify_one();
}

// Calls those that were not ready, in the order in which they become so.
void Queue::Poll() {
  while (!polled_.empty() && polled_.begin()->second()) {
    polled_.erase(polled_.begin());
    --waiting_;
  }
}

void Queue::Execute() {
  using Clock = std::chrono::steady_clock;
  auto worked = Clock::now();  // when there was anything to do last
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (!polled_.empty()) {
      lock.unlock();
      Poll();
      lock.lock();
    }
    const Ticket completed = completed_.load(std::memory_order_relaxed);
    if (!waiters_.empty() && waiters_.begin()->first <= completed) {
      auto waiter = waiters_.extract(waiters_.begin());
      lock.unlock();
      if (waiter.mapped()()) {
        --waiting_;
      } else {
        waiter.key() = completed;
        polled_.insert(std::move(waiter));  // takes no memory
      }
      worked = Clock::now();
      lock.lock();
    } else if (!tasks_.empty()) {
      Task task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      Run(task);
      if (!polled_.empty()) worked = Clock::now();
      task = {};  // releases its buffers outside the lock
      completed_.store(completed + 1, std::memory_order_release);
      lock.lock();
    } else if (polled_.empty()) {
      if (!stopping_) wake_.wait(lock);  // Stop may have come while a waiter was called
    } else {
      // At first at once, then as seldom as it delays the answer by about a hundredth, and the next task by little.
      lock.unlock();
      const auto pause = std::min<Clock::duration>((Clock::now() - worked) / 100, std::chrono::microseconds(200));
      if (pause < std::chrono::microseconds(50)) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(pause);
      }
      lock.lock();
    }
  }
  tasks_.clear();  // now, so that tasks of other queues do not wait for these
}

void Queue::CollectCheckResults() {
  const std::vector<Status> results = device_.TakeCheckResults();
  if (results.empty()) return;
  for (size_t check = 0; check < results.size(); ++check) {
    if (results[check].ok()) continue;
    const Status status = Named(checks_[check], results[check]);
    failed_checks_[period_].emplace_back(check, status);
    Note(status);
  }
  checks_.clear();
  ++period_;
}

Status Queue::FailureOf(const PendingChecks& pending) const {
  if (const auto failed = failed_checks_.find(pending.period); failed != failed_checks_.end()) {
    for (const auto& [check, status] : failed->second) {
      if (pending.checks[check]) return status;
    }
  }
  return {};
}

Queue::OpenChecks Queue::OpenChecksOf(const Buffer& buffer) const {
  OpenChecks open;
  if (buffer.pending_checks.period != period_) return open;
  for (size_t check = 0; check < checks_.size(); ++check) {
    if (buffer.pending_checks.checks[check]) open.emplace_back(check, checks_[check]);
  }
  return open;
}

Status Queue::FailureOf(const OpenChecks& checks, const std::vector<Status>& results) {
  for (const auto& [check, task] : checks) {
    if (!results[check].ok()) return Named(task, results[check]);
  }
  return {};
}

// Makes sure that the next task can start a check: one that nobody has waited for in a long time waits here.
Status Queue::MakeRoom() {
  if (checks_.size() < Device::kMaxChecks) return {};
  const Status status = device_.Synchronize();
  CollectCheckResults();
  return status;
}

void Queue::Run(Task& task) noexcept {
  try {
    RunChecked(task);
  } catch (const std::bad_alloc&) {
    // Not even the message of a failure found room; this one is short enough to need none.
    const Status failure(StatusCode::kOutOfMemory, "out of memory");
    for (const auto* written : {&task.writes, &task.updates}) {
      for (const BufferRef& buffer : *written) buffer->failure = failure;
    }
    Note(failure);
  }
}

void Queue::RunChecked(Task& task) {
  Status own = MakeRoom(), status;
  if (task.after.valid()) status = OutcomeOf(task.after);
  PendingChecks pending{period_, {}};
  for (const auto* operands : {&task.reads, &task.updates}) {
    for (const BufferRef& buffer : *operands) {
      if (!status.ok()) break;
      status = FailureOf(*buffer);
      if (buffer->pending_checks.period == period_) pending.checks |= buffer->pending_checks.checks;
    }
  }
  bool untouched = !status.ok() || !own.ok();  // whether nothing was written
  if (status.ok()) {
    if (!task.updates.empty()) device_.Guard(pending.checks);
    for (const auto* written : {&task.writes, &task.updates}) {
      for (const BufferRef& buffer : *written) device_.Written(buffer->data, buffer->bytes);
    }
    try {
      if (own.ok()) own = task.run();
    } catch (const std::bad_alloc&) {
      own = Status(StatusCode::kOutOfMemory, "out of memory for scratch space");
      untouched = true;
    }
    for (; checks_.size() < device_.ChecksStarted(); checks_.push_back(task.name)) pending.checks.set(checks_.size());
    if (own.ok() && task.inspect) {
      own = task.inspect();
      CollectCheckResults();
      status = FailureOf(pending);  // what follows from a failed check is no news
    }
    if (status.ok() && !own.ok()) status = Named(task.name, own);
    Note(status);
  } else if (!task.updates.empty()) {
    Note(status);  // nothing else tells that they were not updated
  }
  for (const BufferRef& buffer : task.writes) {
    buffer->failure = status;
    buffer->pending_checks = pending;
  }
  // Where a check fails, the device leaves them alone: no check is pending on them.
  if (!untouched) {
    for (const BufferRef& buffer : task.updates) buffer->failure = status;
  }
  if (!task.outcome) return;
  CollectCheckResults();  // such a task has waited for the device: what it read has no pending check any more
  for (const BufferRef& buffer : task.reads) {
    if (status.ok()) status = FailureOf(*buffer);
  }
  task.outcome->set_value(status);
}

}  // namespace sas
