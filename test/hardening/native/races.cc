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
  const DeviceInfo& info() const override { return info_; }
  const Operations& operations() const override { std::abort(); }
  Context& context() override { return context_; }
  cpu::CpuContext& cpu() { return context_; }
  Status AllocateRaw(size_t bytes, void** data) override {
    *data = ::operator new (bytes, std::align_val_t{64}, std::nothrow);
    return *data != nullptr ? Status() : Status(StatusCode::kOutOfMemory, "out of memory");
  }
  void FreeRaw(void* data, size_t) override { ::operator delete (data, std::align_val_t{64}); }
  size_t ScratchBytes() const override { return context_.scratch.bytes(); }
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

// The life of one device: random tasks on random buffers, freed while queued, waited for now and then.
void Hammer(TestDevice& device, Queue& queue, BufferPool& pool, Queue& other, std::mt19937_64& random, Counts& counts,
            int64_t* unguarded) {
  const auto below = [&](uint64_t limit) { return random() % limit; };
  std::vector<Block> blocks;
  const auto release = [&](size_t at) {
    pool.Free(*blocks[at].buffer);
    blocks.erase(blocks.begin() + static_cast<ptrdiff_t>(at));
  };
  const auto allocate = [&](size_t elements) {
    Block block;
    if (!pool.Allocate(elements * sizeof(int64_t), ~Ticket{0}, queue.completed(), block.buffer.get()).ok())
      return false;
    block.buffer->owners = 1;
    blocks.push_back(block);
    return true;
  };
  for (int step = 0; step < 400; ++step) {
    if (blocks.empty() || below(4) == 0) {
      while (!allocate(1 + below(3000))) release(below(blocks.size()));
    }
    Block& block = blocks[below(blocks.size())];
    block.value = static_cast<int64_t>(random() >> 1);
    block.fails = below(200) == 0;
    auto* data = static_cast<int64_t*>(block.buffer->data);
    const auto size = static_cast<int64_t>(block.buffer->bytes / sizeof(int64_t));
    Task task{"fill", {}, {block.buffer}, [&device, data, size, value = block.value, fails = block.fails, unguarded] {
                if (unguarded != nullptr) ++*unguarded;
                device.cpu().scratch.Reset(false);
                float* scratch = device.cpu().scratch.Take(size);
                device.cpu().pool.Run((size + 63) / 64, [&](int64_t item, int) {
                  for (int64_t i = item * 64; i < std::min(size, item * 64 + 64); ++i) {
                    scratch[i] = 1;
                    data[i] = value;
                  }
                });
                device.StartCheck(fails);
                return Status();
              }};
    if (below(20) == 0) {
      Task first{"first", {}, {}, [] { return Status(); }};
      task.after = first.outcome.emplace().get_future();
      other.Submit(std::move(first));
    }
    queue.Submit(std::move(task), below(3) == 0);
    ++counts.tasks;
    counts.loops += size >= 64;
    if (unguarded != nullptr) ++*unguarded;
    if (below(10) == 0) {
      std::promise<Status> done;
      const Block& asked = blocks[below(blocks.size())];
      std::vector<int64_t> copy(asked.buffer->bytes / sizeof(int64_t));
      queue.Wait(asked.buffer->last_write, [&, raw = asked.buffer.get()] {
        const Status status = device.CopyToHost(copy.data(), raw->data, raw->bytes);
        queue.CollectCheckResults();
        done.set_value(status.ok() ? queue.FailureOf(*raw) : status);
      });
      const Status status = done.get_future().get();
      ++counts.waits;
      counts.failures += !status.ok();
      // A buffer that no task has written yet holds anything.
      if (asked.value != 0 && status.ok() == asked.fails) ++counts.wrong;
      if (asked.value != 0 && status.ok()) {
        for (const int64_t value : copy) counts.wrong += value != asked.value;
      }
    }
    if (below(6) == 0) release(below(blocks.size()));
  }
  while (!blocks.empty()) release(0);
}

int Main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  int64_t race = 0;
  int64_t* unguarded = argc > 3 && std::strcmp(argv[3], "plant") == 0 ? &race : nullptr;
  std::mt19937_64 random(seed);
  Counts counts;
  long lives = 0;
  const auto stop = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < stop) {
    // Destroyed in the addon's order, at times with tasks still queued.
    TestDevice device(2 + static_cast<int>(random() % 3)), second(1);
    BufferPool pool(device, size_t{1} << 20);
    Queue queue(device), other(second);
    Hammer(device, queue, pool, other, random, counts, unguarded);
    queue.Stop();
    other.Stop();
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
