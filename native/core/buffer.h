// Device memory as tensors own it, and the caching pool it comes from. Everything here belongs to the environment's
// thread, except Buffer::failure and pending_checks, which belong to the queue, and BufferPool::Trim.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "core/device.h"
#include "core/status.h"

namespace sas {

// Numbers the tasks of one queue, from 1 on.
using Ticket = uint64_t;

// Checks whose results are not known yet, of the period between two waits.
struct PendingChecks {
  uint64_t period = 0;
  std::bitset<Device::kMaxChecks> checks;
};

// Memory shared by one or more tensors (views). `owners` counts them; at zero the memory returns to the pool, although
// tasks already queued may still use it: the next owner's tasks come later in the same queue.
struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;
  size_t capacity = 0;  // of the pool's block; 0 for wrapped memory
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

// Recycles blocks by size class (eight classes per octave, so at most 1/8 is wasted).
class BufferPool {
 public:
  // `limit` bounds `reserved`.
  BufferPool(Device& device, size_t limit) : device_(device), limit_(limit) {}
  ~BufferPool() { Trim(~Ticket{0}); }
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // A block of at least `bytes`. Tasks up to its `last_use` may still use it, which only matters to a caller that
  // touches it outside the queue: such a caller passes the last completed ticket as `idle_since`. Blocks that tasks no
  // longer use (up to `completed`) are given back to the system before giving up.
  Status Allocate(size_t bytes, Ticket idle_since, Ticket completed, Buffer* out);
  // Whether that much would fit into the limit if all blocks that are free were idle too.
  bool MayFit(size_t bytes) const;
  void Free(const Buffer& buffer) noexcept;
  // Gives free blocks that tasks no longer use back to the system. Any thread.
  void Trim(Ticket completed);
  // Memory that the pool does not own (wrapped) is live too.
  void Own(size_t bytes, Ticket completed);
  void Disown(size_t bytes);
  MemoryUse Use(Ticket completed);

 private:
  struct FreeBlock {
    void* data;
    size_t bytes;  // of the buffer that gave it up
    Ticket last_use;
    bool held;  // whether `held_` counts it
  };
  // With the mutex held, as all that follow.
  Status NewBlock(size_t capacity, void** data);
  void GiveBack(Ticket completed);
  void AddOwned(size_t bytes, Ticket completed);
  MemoryUse Count(Ticket completed);
  void CountHeld(Ticket completed);
  void Forget(const FreeBlock& block) {
    if (block.held) held_ -= block.bytes;
  }

  Device& device_;
  const size_t limit_;
  mutable std::mutex mutex_;  // guards what follows
  size_t owned_ = 0;          // bytes of buffers
  size_t held_ = 0;      // bytes of free blocks that tasks used when they were last counted, and of those freed since
  size_t peak_ = 0;      // of `owned_` and what tasks use
  size_t reserved_ = 0;  // bytes of all blocks
  // The blocks of one capacity. `free` has room for all of them, so that giving one back never needs memory.
  struct SizeClass {
    std::vector<FreeBlock> free;
    size_t blocks = 0;  // taken from the system, free or not
  };
  std::map<size_t, SizeClass> classes_;  // by capacity
};

}  // namespace sas
