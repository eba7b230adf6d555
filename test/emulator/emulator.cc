#include "emulator.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>

#include "cuda_runtime.h"
#include "fiber.h"
#include "runtime.h"

namespace sas::emulator {

thread_local Thread* current = nullptr;

namespace {

constexpr int kWarp = 32;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Lane {
  Thread thread;
  Fiber fiber;
  State state = State::kDone;
  const char* waiting_for = "";
  void* operand = nullptr;
  std::vector<const void*> accesses;  // 16-byte accesses to device memory since the last collective
};

// Runs blocks, one at a time, on the calling thread.
class Machine {
 public:
  Machine() : random_(Seed()) {}

  cudaError_t Launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& body);

  // From fibers.
  void ArriveAtBlock();
  void Arrive(const char* name, void* operand, void (*perform)(const Operands&));
  KernelCounts& counts() { return *counts_; }
  bool InShared(const void* address, size_t bytes) const {
    const auto* at = static_cast<const unsigned char*>(address);
    return at >= block_.shared && at + bytes <= block_.shared + block_.shared_bytes;
  }
  Lane& lane() { return *running_; }

 private:
  static void Enter(void* self);
  void RunBlock();
  bool RunnableWarp(size_t warp) const;
  void SwitchTo(Lane& lane);
  void Leave() { Switch(running_->fiber, scheduler_); }
  Lane* NextReady(size_t warp, int after);
  void FoldAccesses(size_t warp);
  [[noreturn]] void ReportStuck(size_t warp, const char* name);

  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  Fiber scheduler_;
  Lane* running_ = nullptr;
  Block block_{};
  size_t threads_ = 0;
  const std::function<void()>* body_ = nullptr;
  KernelCounts* counts_ = nullptr;
  std::string failure_;
  bool failed_ = false;
};

Machine& TheMachine() {
  static thread_local Machine machine;
  return machine;
}

std::string Name(const Thread& thread) {
  char text[128];
  std::snprintf(text, sizeof text, "block (%u, %u, %u) thread %u", thread.block->index.x, thread.block->index.y,
                thread.block->index.z, thread.thread.x);
  return text;
}

cudaError_t Machine::Launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& body) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (const std::string fault = CheckLaunch(config, kernel); !fault.empty()) {
    return SetFailure(cudaErrorInvalidConfiguration, fault);
  }
  counts_ = &CountsOf(kernel);
  ++counts_->launches;
  body_ = &body;
  threads_ = block.x;
  while (lanes_.size() < threads_) lanes_.push_back(std::make_unique<Lane>());

  // A block of its own, so that an address checker sees what lies outside.
  struct Freed {
    void operator()(unsigned char* data) const { std::free(data); }
  };
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, std::max<size_t>(1, config.dynamicSmemBytes)) != 0) return cudaErrorMemoryAllocation;
  const std::unique_ptr<unsigned char, Freed> shared(static_cast<unsigned char*>(memory));
  block_ = {{}, {block.x, 1, 1}, {grid.x, grid.y, grid.z}, shared.get(), config.dynamicSmemBytes};

  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  for (uint64_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random_);
  for (const uint64_t at : order) {
    block_.index = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                    static_cast<unsigned>(at / grid.x / grid.y)};
    memset(block_.shared, 0xff, block_.shared_bytes);
    RunBlock();
    if (failed_) {
      failed_ = false;
      return SetFailure(cudaErrorLaunchFailure, failure_ + " (SAS_EMULATOR_SEED=" + std::to_string(Seed()) + ")");
    }
  }
  return cudaSuccess;
}

void Machine::Enter(void* self) {
  Machine& machine = *static_cast<Machine*>(self);
  machine.running_->fiber.Entered();
  try {
    (*machine.body_)();
    if (!machine.running_->thread.copies.empty()) Fail("left the kernel with asynchronous copies not waited for");
  } catch (const Failure& failure) {
    machine.failed_ = true;
    machine.failure_ = failure.what();
  }
  machine.running_->state = State::kDone;
  machine.Leave();
}

void Machine::RunBlock() {
  for (size_t i = 0; i < threads_; ++i) {
    Lane& lane = *lanes_[i];
    lane.thread = {{static_cast<unsigned>(i), 0, 0}, static_cast<int>(i % kWarp), &block_, {}, 0};
    lane.state = State::kReady;
    lane.accesses.clear();
    lane.fiber.Start(Enter, this);
  }
  const size_t warps = threads_ / kWarp;
  std::vector<size_t> runnable;
  while (!failed_) {
    runnable.clear();
    size_t waiting = 0, done = 0;
    for (size_t warp = 0; warp < warps; ++warp) {
      if (RunnableWarp(warp)) runnable.push_back(warp);
    }
    for (size_t i = 0; i < threads_; ++i) {
      waiting += lanes_[i]->state == State::kAtBlock;
      done += lanes_[i]->state == State::kDone;
    }
    if (!runnable.empty()) {
      const size_t warp = runnable[random_() % runnable.size()];
      if (Lane* next = NextReady(warp, static_cast<int>(random_() % kWarp))) SwitchTo(*next);
    } else if (done == threads_) {
      break;
    } else if (waiting == threads_) {
      for (size_t i = 0; i < threads_; ++i) lanes_[i]->state = State::kReady;
    } else {
      failed_ = true;
      failure_ = "deadlock:";
      for (size_t i = 0; i < threads_; ++i) {
        const Lane& lane = *lanes_[i];
        if (lane.state == State::kDone && done <= 8) failure_ += " thread " + std::to_string(i) + " has left the kernel;";
        if (lane.state == State::kAtWarp) {
          failure_ += " thread " + std::to_string(i) + " waits at " + lane.waiting_for + ";";
          if (failure_.size() > 600) break;
        }
      }
      failure_ += " " + std::to_string(waiting) + " of " + std::to_string(threads_) + " threads wait at __syncthreads, " +
                  std::to_string(done) + " have left";
    }
  }
  for (size_t warp = 0; warp < warps; ++warp) FoldAccesses(warp);
}

bool Machine::RunnableWarp(size_t warp) const {
  for (size_t i = warp * kWarp; i < (warp + 1) * kWarp; ++i) {
    if (lanes_[i]->state == State::kReady) return true;
  }
  return false;
}

Lane* Machine::NextReady(size_t warp, int after) {
  for (int step = 1; step <= kWarp; ++step) {
    Lane& lane = *lanes_[warp * kWarp + static_cast<size_t>((after + step) % kWarp)];
    if (lane.state == State::kReady) return &lane;
  }
  return nullptr;
}

void Machine::SwitchTo(Lane& lane) {
  running_ = &lane;
  current = &lane.thread;
  Switch(scheduler_, lane.fiber);
}

void Machine::ArriveAtBlock() {
  running_->state = State::kAtBlock;
  Leave();
}

void Machine::Arrive(const char* name, void* operand, void (*perform)(const Operands&)) {
  Lane& self = *running_;
  const size_t warp = self.thread.thread.x / kWarp;
  self.operand = operand;
  self.waiting_for = name;
  self.state = State::kAtWarp;
  if (Lane* next = NextReady(warp, self.thread.lane)) {  // the other lanes have yet to come
    running_ = next;
    current = &next->thread;
    Switch(self.fiber, next->fiber);
    return;
  }
  Operands operands;
  for (int i = 0; i < kWarp; ++i) {
    const Lane& lane = *lanes_[warp * kWarp + static_cast<size_t>(i)];
    if (lane.state != State::kAtWarp || strcmp(lane.waiting_for, name) != 0) ReportStuck(warp, name);
    operands[static_cast<size_t>(i)] = lane.operand;
  }
  FoldAccesses(warp);
  perform(operands);
  for (size_t i = warp * kWarp; i < (warp + 1) * kWarp; ++i) lanes_[i]->state = State::kReady;
  if (random_() % 16 == 0) Leave();  // another warp may go on
}

void Machine::ReportStuck(size_t warp, const char* name) {
  std::string missing;
  for (size_t i = warp * kWarp; i < (warp + 1) * kWarp; ++i) {
    const Lane& lane = *lanes_[i];
    if (lane.state == State::kAtWarp && strcmp(lane.waiting_for, name) == 0) continue;
    missing += (missing.empty() ? "" : ", ") + std::to_string(i % kWarp) +
               (lane.state == State::kDone      ? " (left the kernel)"
                : lane.state == State::kAtBlock ? " (at __syncthreads)"
                                                : std::string(" (at ") + lane.waiting_for + ")");
  }
  Fail("%s without lanes %s", name, missing.c_str());
}

void Machine::FoldAccesses(size_t warp) {
  size_t longest = 0;
  const auto lane = [&](int i) -> Lane& { return *lanes_[warp * kWarp + static_cast<size_t>(i)]; };
  for (int i = 0; i < kWarp; ++i) longest = std::max(longest, lane(i).accesses.size());
  for (size_t k = 0; k < longest; ++k) {
    std::array<uintptr_t, kWarp> sectors;
    size_t count = 0;
    for (int i = 0; i < kWarp; ++i) {
      if (k < lane(i).accesses.size()) sectors[count++] = reinterpret_cast<uintptr_t>(lane(i).accesses[k]) / 32;
    }
    std::sort(sectors.begin(), sectors.begin() + static_cast<ptrdiff_t>(count));
    const auto end = std::unique(sectors.begin(), sectors.begin() + static_cast<ptrdiff_t>(count));
    ++counts_->global_accesses;
    counts_->global_sectors += static_cast<uint64_t>(end - sectors.begin());
    counts_->ideal_sectors += (count * 16 + 31) / 32;
  }
  if (longest > 0) {
    for (int i = 0; i < kWarp; ++i) lane(i).accesses.clear();
  }
}

}  // namespace

cudaError_t Launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread) {
  return TheMachine().Launch(config, kernel, thread);
}

void Fail(const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Failure(Name(Current()) + ": " + text);
}

void SyncBlock() { TheMachine().ArriveAtBlock(); }

void Exchange(const char* name, void* operand, void (*perform)(const Operands&)) {
  TheMachine().Arrive(name, operand, perform);
}

void CheckMask(const char* name, unsigned mask) {
  if (mask != 0xffffffffu) Fail("%s with mask %08x: only whole warps are emulated", name, mask);
}

void SyncWarp(unsigned mask) {
  CheckMask("__syncwarp", mask);
  Exchange("__syncwarp", nullptr, [](const Operands&) {});
}

unsigned Ballot(unsigned mask, bool predicate) {
  CheckMask("ballot", mask);
  struct Operand {
    bool predicate;
    unsigned result;
  } operand{predicate, 0};
  Exchange("ballot", &operand, [](const Operands& operands) {
    unsigned bits = 0;
    for (int lane = 0; lane < kWarp; ++lane) {
      bits |= static_cast<unsigned>(static_cast<const Operand*>(operands[static_cast<size_t>(lane)])->predicate) << lane;
    }
    for (void* each : operands) static_cast<Operand*>(each)->result = bits;
  });
  return operand.result;
}

bool InShared(const void* address, size_t bytes) { return TheMachine().InShared(address, bytes); }
KernelCounts& Counts() { return TheMachine().counts(); }

// ---- asynchronous copies

void CopyAsync(void* shared, const void* global, size_t bytes, bool valid) {
  if (!InShared(shared, bytes)) Fail("asynchronous copy to an address outside of shared memory");
  if (reinterpret_cast<uintptr_t>(shared) % bytes != 0) Fail("asynchronous copy to an address not aligned to %zu", bytes);
  if (valid && reinterpret_cast<uintptr_t>(global) % bytes != 0) {
    Fail("asynchronous copy from an address not aligned to %zu", bytes);
  }
  Thread& thread = Current();
  thread.copies.push_back({shared, valid ? global : nullptr, bytes, thread.open_group});
  if (valid) CountVector(global, Access::kCopy);
}

void CopyAsyncCommit() { ++Current().open_group; }

void CopyAsyncWait(int pending) {
  Thread& thread = Current();
  const auto due = [&](const PendingCopy& copy) { return copy.group < thread.open_group - pending; };
  for (const PendingCopy& copy : thread.copies) {
    if (!due(copy)) continue;
    if (copy.source == nullptr) {
      memset(copy.target, 0, copy.bytes);
    } else {
      memcpy(copy.target, copy.source, copy.bytes);
    }
  }
  std::erase_if(thread.copies, due);
}

// ---- checks and counts

void CountVector(const void* address, Access access) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) Fail("16-byte access to an address not aligned to 16");
  if (access != Access::kCopy && InShared(address, 16)) return;
  TheMachine().lane().accesses.push_back(address);
}

void CountMatrixRows(const Operands& addresses, int matrices) {
  KernelCounts& counts = Counts();
  for (int matrix = 0; matrix < matrices; ++matrix) {
    std::array<uint64_t, 8> rows;
    for (int i = 0; i < 8; ++i) {
      const void* row = addresses[static_cast<size_t>(8 * matrix + i)];
      if (!InShared(row, 16)) Fail("ldmatrix row %d of matrix %d lies outside of shared memory", i, matrix);
      if (reinterpret_cast<uintptr_t>(row) % 16 != 0) Fail("ldmatrix row address not aligned to 16");
      rows[static_cast<size_t>(i)] = reinterpret_cast<uintptr_t>(row) / 16;
    }
    std::sort(rows.begin(), rows.end());
    std::array<int, 8> load{};  // distinct rows per group of four banks
    for (size_t i = 0; i < 8; ++i) {
      if (i == 0 || rows[i] != rows[i - 1]) ++load[rows[i] % 8];
    }
    ++counts.matrix_loads;
    counts.matrix_conflicts += static_cast<uint64_t>(*std::max_element(load.begin(), load.end()) - 1);
  }
}

}  // namespace sas::emulator
