// Hammers the queue, the buffer pool and the thread pool from the threads that use them in the addon, for
// ThreadSanitizer. Arguments: seconds, seed, and `plant` to plant a race that must be found. Prints what it did; exit
// code 66 is a report of the sanitizer, 1 a wrong result.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "core/queue.h"
#include "cpu/context.h"

namespace sas {
namespace {

// Host memory, and one check per task so that results of checks are taken as on a GPU.
class TestDevice : public Device {
 public:
  explicit TestDevice(int threads) : context_(threads) { info_.id = "test"; }
  DeviceInfo info() const override { return info_; }
  const Operations& operations() const override { std::abort(); }
  Context& context() override { return context_; }
  cpu::CpuContext& cpu() { return context_; }
  Status AllocateRaw(size_t bytes, void** data) override { return context_.pages.Allocate(bytes, data); }
  void FreeRaw(void* data, size_t bytes) override { context_.pages.Free(data, bytes); }
  bool FreesParts() const override { return true; }
  DeviceReserve reserve() const override { return {.scratch = context_.scratch.bytes()}; }
  size_t TakeScratchPeak() override { return context_.scratch.TakePeak(); }
  bool HostAccessible() const override { return true; }
  double MeasurePeakFlops(double) override { return 0; }
  Status CopyToDevice(void* target, const void* source, size_t bytes) override {
    memcpy(target, source, bytes);
    return {};
  }
  Status CopyToHost(void* target, const void* source, size_t bytes) override {
    memcpy(target, source, bytes);
    return {};
  }
  Status Synchronize() override { return {}; }
  size_t ChecksStarted() const override { return checks_.size(); }
  std::vector<Status> TakeCheckResults() override { return std::exchange(checks_, {}); }
  Status Poison(void*, size_t) override { return {}; }
  void Trim() override { context_.scratch.TrimTo(0); }
  void TrimTo(size_t scratch) override { context_.scratch.TrimTo(scratch); }
  void Cancel() override { context_.pool.Cancel(); }
  void StartCheck(bool fails) { checks_.push_back(fails ? Status(StatusCode::kDevice, "planned") : Status()); }

 private:
  DeviceInfo info_;
  cpu::CpuContext context_;
  std::vector<Status> checks_;
};

struct Counts {
  long tasks = 0, loops = 0, waits = 0, failures = 0, wrong = 0;
};

struct Block {
  BufferRef buffer = std::make_shared<Buffer>();
  int64_t value = 0;  // what the last task writes into every element
  bool fails = false;
};

// A copy that the executor thread makes while this one goes on.
struct Read {
  BufferRef buffer;
  int64_t value;  // what every element must be; 0: no task has written the buffer yet, and it holds anything
  bool fails;
  std::vector<int64_t> copy;
  std::promise<Status> done;
};

// The life of one device: random tasks on random buffers, freed while queued, read now and then.
class Life {
 public:
  Life(TestDevice& device, Queue& queue, BufferPool& pool, Queue& other, std::mt19937_64& random, Counts& counts,
       int64_t* unguarded)
      : device_(device),
        queue_(queue),
        pool_(pool),
        other_(other),
        random_(random),
        counts_(counts),
        race_(unguarded) {}

  void Run() {
    for (int step = 0; step < 400; ++step) {
      if (blocks_.empty() || Below(4) == 0) {
        const size_t most = Below(8) == 0 ? 100'000 : 3000;  // large ones are split and merged
        while (!Allocate(1 + Below(most))) Release(Below(blocks_.size()));
      }
      Write(blocks_[Below(blocks_.size())]);
      if (Below(10) == 0) {
        Block& block = blocks_[Below(blocks_.size())];
        StartRead(block);
        if (Below(2) == 0) Write(block);  // which must not be done before the copy
      }
      if (reads_.size() > Below(8)) FinishReads();
      if (Below(6) == 0) Release(Below(blocks_.size()));
      if (Below(50) == 0) pool_.Trim(queue_.completed());
      if (pool_.EndPeriod(queue_.submitted()) || Below(20) == 0) Shrink();
    }
    FinishReads();
  }

  // What is queued may still use the blocks.
  void ReleaseAll() {
    while (!blocks_.empty()) Release(0);
  }

 private:
  uint64_t Below(uint64_t limit) { return random_() % limit; }

  bool Allocate(size_t elements) {
    Block block;
    if (!pool_.Allocate(elements * sizeof(int64_t), ~Ticket{0}, queue_.completed(), block.buffer.get()).ok())
      return false;
    block.buffer->owners = 1;
    blocks_.push_back(block);
    return true;
  }

  void Release(size_t at) {
    FinishReads();  // they have no share of the buffer
    pool_.Free(*blocks_[at].buffer);
    blocks_.erase(blocks_.begin() + static_cast<ptrdiff_t>(at));
  }

  void Shrink() {
    queue_.Wait(queue_.submitted(), [&pool = pool_, &queue = queue_] {
      pool.Shrink(queue.completed());
      return true;
    });
  }

  void Write(Block& block) {
    block.value = static_cast<int64_t>(random_() >> 1);
    block.fails = Below(200) == 0;
    auto* data = static_cast<int64_t*>(block.buffer->data);
    const auto size = static_cast<int64_t>(block.buffer->bytes / sizeof(int64_t));
    Task task{"fill",
              {},
              {block.buffer},
              [&device = device_, data, size, value = block.value, fails = block.fails, race = race_] {
                if (race != nullptr) ++*race;
                device.cpu().scratch.Reset(false);
                float* scratch = device.cpu().scratch.Take(size);
                try {
                  device.cpu().pool.Run((size + 63) / 64, [&](int64_t item, int) {
                    for (int64_t i = item * 64; i < std::min(size, item * 64 + 64); ++i) {
                      scratch[i] = 1;
                      data[i] = value;
                    }
                  });
                } catch (const cpu::Cancelled&) {
                  return DroppedAtShutdown();
                }
                device.StartCheck(fails);
                return Status();
              }};
    if (Below(20) == 0) {
      Task first{"first", {}, {}, [] { return Status(); }};
      task.after = first.outcome.emplace().get_future();
      other_.Submit(std::move(first));
    }
    queue_.Submit(std::move(task), Below(3) == 0);
    ++counts_.tasks;
    counts_.loops += size >= 64;
    if (race_ != nullptr) ++*race_;
  }

  void StartRead(const Block& block) {
    if (Below(2) == 0) {
      while (queue_.completed() < queue_.submitted()) std::this_thread::yield();  // the next task may run inline
    }
    auto& read = reads_.emplace_back(std::make_unique<Read>());
    read->buffer = block.buffer;
    read->value = block.value;
    read->fails = block.fails;
    read->copy.resize(block.buffer->bytes / sizeof(int64_t));
    queue_.Wait(block.buffer->last_write, [&device = device_, &queue = queue_, read = read.get()] {
      const Status status = device.CopyToHost(read->copy.data(), read->buffer->data, read->buffer->bytes);
      queue.CollectCheckResults();
      read->done.set_value(status.ok() ? queue.FailureOf(*read->buffer) : status);
      return true;
    });
  }

  void FinishReads() {
    for (const auto& read : reads_) {
      const Status status = read->done.get_future().get();
      ++counts_.waits;
      counts_.failures += !status.ok();
      if (read->value == 0) continue;
      if (status.ok() == read->fails) ++counts_.wrong;
      if (!status.ok()) continue;
      for (const int64_t value : read->copy) counts_.wrong += value != read->value;
    }
    reads_.clear();
  }

  TestDevice& device_;
  Queue& queue_;
  BufferPool& pool_;
  Queue& other_;
  std::mt19937_64& random_;
  Counts& counts_;
  int64_t* const race_;  // counted by both threads where a race is planted
  std::vector<Block> blocks_;
  std::vector<std::unique_ptr<Read>> reads_;
};

// A queue is destroyed while its last waiter, which was not ready before, is called: it ends all the same.
void DestroyWhileCalled(TestDevice& device) {
  std::promise<void> called;
  Queue queue(device);
  queue.Wait(0, [&called, calls = 0]() mutable {
    if (++calls == 1) return false;
    called.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // by then it is being destroyed
    return true;
  });
  called.get_future().wait();
}

int Main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  int64_t race = 0;
  int64_t* unguarded = argc > 3 && std::strcmp(argv[3], "plant") == 0 ? &race : nullptr;
  std::mt19937_64 random(seed);
  Counts counts;
  long lives = 0;
  TestDevice idle(1);
  DestroyWhileCalled(idle);
  const auto stop = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < stop) {
    // Destroyed in the addon's order, at times with tasks still queued.
    TestDevice device(2 + static_cast<int>(random() % 3)), second(1);
    BufferPool pool(device, size_t{3} << 20);
    Queue queue(device), other(second);
    Life life(device, queue, pool, other, random, counts, unguarded);
    life.Run();
    life.ReleaseAll();
    queue.Stop();
    other.Stop();
    device.Cancel();
    ++lives;
  }
  std::printf(
      "seed %llu: %ld queues, %ld tasks, %ld parallel loops, %ld waits, %ld of them failures as planned, %ld wrong\n",
      static_cast<unsigned long long>(seed), lives, counts.tasks, counts.loops, counts.waits, counts.failures,
      counts.wrong);
  return counts.wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace sas

int main(int argc, char** argv) { return sas::Main(argc, argv); }
