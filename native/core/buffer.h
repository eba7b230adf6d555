// Device memory as tensors own it, and the caching pool it comes from. Everything here belongs to the environment's
// thread, except Buffer::failure and pending_checks, which belong to the queue, and what says otherwise.
#pragma once

#include <algorithm>
#include <bitset>
#include <cstdint>
#include <list>
#include <mutex>
#include <set>
#include <utility>

#include "core/device.h"
#include "core/recent_peak.h"
#include "core/status.h"

namespace sas {

// Numbers the tasks of one queue, from 1 on.
using Ticket = uint64_t;

// Checks whose results are not known yet, of the period between two waits.
struct PendingChecks {
  uint64_t period = 0;
  std::bitset<Device::kMaxChecks> checks;
};

struct Extent;

// Memory shared by one or more tensors (views). `owners` counts them; at zero the memory returns to the pool, although
// tasks already queued may still use it: the next owner's tasks come later in the same queue.
struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;
  Extent* extent = nullptr;  // the pool's; null for wrapped memory
  int owners = 0;
  Ticket last_use = 0;    // the last task that reads or writes it
  Ticket last_write = 0;  // the last task that writes it
  Status failure;         // of the task that should have written it; written and read by the executor thread, and by
                          // others only once the queue has completed `last_write`
  PendingChecks pending_checks;  // of the tasks that its content comes from; as `failure`
};

struct MemoryUse {
  size_t live = 0;      // bytes owned by tensors, or given up by them and used by tasks that are not completed
  size_t peak = 0;      // the most `live` has been
  size_t reserved = 0;  // bytes taken from the system
};

// What is taken for that many bytes: eight sizes per octave, from 8 MB on whole huge pages (2 MB).
size_t ExtentSize(size_t bytes);

// A piece of a block of memory of the system: all of it, or one of those that it was split into.
struct Extent {
  // Smaller ones first; of the same size that which was freed last, as it is the likeliest to be in cache.
  struct Order {
    using is_transparent = void;
    bool operator()(const Extent* a, const Extent* b) const {
      return a->size != b->size ? a->size < b->size : a->freed > b->freed;
    }
    bool operator()(const Extent* a, size_t size) const { return a->size < size; }
    bool operator()(size_t size, const Extent* b) const { return size < b->size; }
  };
  using FreeSet = std::set<Extent*, Order>;

  char* data = nullptr;
  size_t size = 0;
  Extent *before = nullptr, *after = nullptr;  // its neighbours in the block
  FreeSet::node_type node;                     // while it is not free: so that freeing takes no memory
  FreeSet::iterator place = {};                // while it is free
  std::list<Extent>::iterator self = {};

  // While it is free:
  size_t bytes = 0;  // of the buffer that gave it up
  Ticket last_use = 0;
  uint64_t freed = 0;                         // numbers all that are freed
  Extent *older = nullptr, *newer = nullptr;  // of those that are free
  bool free = false;
  bool held = false;  // whether BufferPool::held_ counts it
};

// Keeps the memory that tensors give up for those that come. Small extents (below 256 KB) are blocks of their own. A
// request takes one that is at most a quarter larger than itself, else, if it is large, a part of a larger one.
// Neighbours that are idle become one again before more is taken from the system.
//
// What is kept is bounded by what the program has needed lately (see Allowance): before a new block takes the reserve
// beyond that, and at waits, idle extents go back to the system, first those that have been free for longest. A loop
// that does the same in every step keeps all that it needs.
class BufferPool {
 public:
  // `limit` bounds `reserved`.
  BufferPool(Device& device, size_t limit) : device_(device), limit_(limit) {}
  ~BufferPool() { Trim(~Ticket{0}); }
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // At least `bytes`. Tasks up to its `last_use` may still use it, which only matters to a caller that touches it
  // outside the queue: such a caller passes the last completed ticket as `idle_since`. What tasks no longer use (up to
  // `completed`) is given back to the system before giving up.
  Status Allocate(size_t bytes, Ticket idle_since, Ticket completed, Buffer* out);
  // Whether that much would fit into the limit if all that is free were idle too.
  bool MayFit(size_t bytes) const;
  void Free(const Buffer& buffer) noexcept;
  // Gives what is free and not used by tasks back to the system. Any thread.
  void Trim(Ticket completed);

  // The environment waits for work, of which that up to `submitted` is enqueued: a period of RecentPeak ends, if there
  // was any work in it. Whether Shrink has anything to do now.
  bool EndPeriod(Ticket submitted);
  // Gives back what goes beyond the allowance, scratch memory too. Executor thread.
  void Shrink(Ticket completed);

  // Memory that the pool does not own (wrapped) is live too.
  void Own(size_t bytes, Ticket completed);
  void Disown(size_t bytes);
  MemoryUse Use(Ticket completed);

 private:
  // With the mutex held, as all that follow.
  Extent* Reuse(size_t bytes, Ticket idle_since);
  Status NewExtent(size_t size, Ticket completed, Extent** extent);
  Status TakeFromSystem(size_t size, Extent** extent);
  Extent* Make(char* data, size_t size);
  void Split(Extent* extent, size_t size);
  void MergeIdle();
  void Enter(Extent* extent, bool held) noexcept;
  void Leave(Extent* extent) noexcept;
  static size_t Allowance(size_t needed, size_t used);
  bool ExceedsAllowance(size_t beside) const {
    return reserved_ + beside > Allowance(std::max(recent_.peak(), period_peak_), reserved_ - free_bytes_);
  }
  bool ScratchExceeds(const DeviceReserve& reserve) const {
    return reserve.scratch > Allowance(recent_scratch_.peak(), 0);
  }
  // Whether the system can have it back.
  bool Returnable(const Extent& extent, Ticket completed) const {
    const bool whole = extent.before == nullptr && extent.after == nullptr;
    return extent.last_use <= completed && (whole || device_.FreesParts());
  }
  Extent* OldestReturnable(Ticket completed) const;
  // It counts no more; returns its memory, for Device::FreeRaw.
  std::pair<void*, size_t> Forget(Extent* extent) noexcept;
  // Gives back idle extents until no more than `most` bytes are reserved.
  void GiveBack(Ticket completed, size_t most);
  void AddOwned(size_t bytes, Ticket completed);
  MemoryUse Count(Ticket completed);
  void CountHeld(Ticket completed);

  Device& device_;
  const size_t limit_;
  mutable std::mutex mutex_;  // guards what follows
  size_t owned_ = 0;          // bytes of buffers
  size_t wrapped_ = 0;        // those of them that the pool does not own
  size_t held_ = 0;      // bytes of free extents that tasks used when they were last counted, and of those freed since
  size_t peak_ = 0;      // of `owned_` and what tasks use
  size_t reserved_ = 0;  // bytes of all extents
  size_t free_bytes_ = 0;  // of those that are free
  std::list<Extent> extents_;
  Extent::FreeSet free_;
  Extent *oldest_ = nullptr, *newest_ = nullptr;  // of those that are free
  uint64_t frees_ = 0;

  // By period, which ends with a wait: the peak of live memory, to within an eighth (CountHeld takes time), and that of
  // scratch memory.
  RecentPeak recent_, recent_scratch_;
  size_t period_peak_ = 0;
  Ticket period_begin_ = 0;
};

}  // namespace sas
