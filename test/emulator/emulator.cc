#include "emulator.h"

#include <algorithm>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>

#include "accesses.h"
#include "cuda_runtime.h"
#include "faults.h"
#include "fiber.h"
#include "memory.h"
#include "runtime.h"
#include "streams.h"

namespace sas::emulator {

thread_local Thread* current = nullptr;

namespace {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Lane {
  Thread thread;
  Fiber fiber;
  // The collective that the lane waits at.
  const char* name = "";
  Perform perform = nullptr;
  void* operand = nullptr;
};

// Sets of a warp's lanes; a lane in none of them waits at a collective.
struct Warp {
  uint32_t ready, at_barrier, done;
};
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr uint32_t Bit(int lane) { return uint32_t{1} << lane; }

// Runs blocks, one at a time, on the calling thread.
class Machine {
 public:
  Machine() : random_(Seed()) {}

  // Returns what the kernel did wrong, or nothing.
  std::string Run(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& body);

  // From fibers.
  void ArriveAtBarrier();
  void Arrive(const char* name, void* operand, Perform perform);

 private:
  static void Enter(void* self);
  void RunBlock();
  void Schedule();
  int PickWarp();
  bool ReleaseBarrier();
  std::string Deadlock() const;
  void Resume(Lane& lane);
  void Leave(bool finished = false);
  void Pause() { Switch(running_->fiber, scheduler_); }
  void Complete(int warp);
  void Fold(int warp);
  [[noreturn]] void FailIncomplete(int warp, const Lane& last) const;
  Lane& At(int warp, int lane) const { return *lanes_[static_cast<size_t>(warp * kWarp + lane)]; }

  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<Warp> warps_;
  std::vector<int> rank_;  // of each warp: who goes first while `by_rank_`
  bool by_rank_ = false;
  Fiber scheduler_;
  Lane* running_ = nullptr;
  Block block_{};
  int warp_count_ = 0;
  const std::function<void()>* body_ = nullptr;
  std::string failure_;  // of the running block, empty: none
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

std::string Machine::Run(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& body) {
  const dim3 grid = config.gridDim;
  const unsigned threads = config.blockDim.x;
  ForgetAllocations();
  KernelCounts& counts = CountsOf(kernel);
  ++counts.launches;
  counts.most_shared_bytes = std::max<uint64_t>(counts.most_shared_bytes, config.dynamicSmemBytes);
  counts.most_threads = std::max<uint64_t>(counts.most_threads, threads);

  body_ = &body;
  warp_count_ = static_cast<int>(threads) / kWarp;
  while (lanes_.size() < threads) lanes_.push_back(std::make_unique<Lane>());
  warps_.resize(static_cast<size_t>(warp_count_));
  rank_.resize(warps_.size());
  for (size_t i = 0; i < rank_.size(); ++i) rank_[i] = static_cast<int>(i);
  const GuardedMemory shared(config.dynamicSmemBytes);
  block_ = {{}, {threads, 1, 1}, {grid.x, grid.y, grid.z}, shared.data(), shared.bytes(), &counts};

  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  for (uint64_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random_);
  for (const uint64_t at : order) {
    block_.index = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                    static_cast<unsigned>(at / grid.x / grid.y)};
    memset(block_.shared, random_() % 2 == 0 ? 0xff : 0xc2, block_.shared_bytes);  // NaN, or large
    failure_.clear();
    RunBlock();
    if (const std::string damage = shared.Damage(); !damage.empty() && failure_.empty()) {
      failure_ = "shared memory was written " + damage;
    }
    if (!failure_.empty()) break;
  }
  if (const std::string damage = DeviceMemory().Damage(); !damage.empty() && failure_.empty()) {
    failure_ = "device memory was written " + damage;
  }
  return failure_;
}

// ---- a block

void Machine::RunBlock() {
  for (int warp = 0; warp < warp_count_; ++warp) {
    warps_[static_cast<size_t>(warp)] = {kAllLanes, 0, 0};
    for (int i = 0; i < kWarp; ++i) {
      Lane& lane = At(warp, i);
      lane.thread.thread = {static_cast<unsigned>(warp * kWarp + i), 0, 0};
      lane.thread.lane = i;
      lane.thread.block = &block_;
      lane.thread.copies.clear();
      lane.thread.open_group = 0;
      lane.thread.accesses.clear();
      lane.fiber.Start(Enter, this);
    }
  }
  // Half of the blocks let some warps run ahead of the others as far as barriers allow.
  by_rank_ = random_() % 2 == 0;
  std::shuffle(rank_.begin(), rank_.end(), random_);
  Schedule();
}

void Machine::Schedule() {
  while (failure_.empty()) {
    if (const int warp = PickWarp(); warp >= 0) {
      const uint32_t ready = warps_[static_cast<size_t>(warp)].ready;
      const int first = static_cast<int>(random_() % kWarp);
      Resume(At(warp, (first + std::countr_zero(std::rotr(ready, first))) % kWarp));
    } else if (std::ranges::all_of(warps_, [](const Warp& each) { return each.done == kAllLanes; })) {
      return;
    } else if (!ReleaseBarrier()) {
      failure_ = Deadlock();
    }
  }
}

// A warp that can run, or -1.
int Machine::PickWarp() {
  std::array<int, 32> runnable;
  size_t count = 0;
  for (int warp = 0; warp < warp_count_; ++warp) {
    if (warps_[static_cast<size_t>(warp)].ready != 0) runnable[count++] = warp;
  }
  if (count == 0) return -1;
  if (!by_rank_) return runnable[random_() % count];
  if (random_() % 8 == 0) std::swap(rank_[random_() % rank_.size()], rank_[random_() % rank_.size()]);
  return *std::min_element(runnable.begin(), runnable.begin() + static_cast<ptrdiff_t>(count),
                           [&](int a, int b) { return rank_[static_cast<size_t>(a)] < rank_[static_cast<size_t>(b)]; });
}

// Lets all threads pass if all of them wait at __syncthreads.
bool Machine::ReleaseBarrier() {
  if (!std::ranges::all_of(warps_, [](const Warp& each) { return each.at_barrier == kAllLanes; })) return false;
  for (Warp& warp : warps_) warp = {kAllLanes, 0, 0};
  return true;
}

std::string Machine::Deadlock() const {
  constexpr size_t kLongest = 600;
  std::string text = "deadlock:";
  int waiting = 0, left = 0;
  for (int warp = 0; warp < warp_count_; ++warp) {
    const Warp& state = warps_[static_cast<size_t>(warp)];
    waiting += std::popcount(state.at_barrier);
    left += std::popcount(state.done);
    for (int i = 0; i < kWarp; ++i) {
      if (((state.at_barrier | state.done) & Bit(i)) != 0 || text.size() > kLongest) continue;
      text += " thread " + std::to_string(warp * kWarp + i) + " waits at " + At(warp, i).name + ";";
    }
  }
  return text + " " + std::to_string(waiting) + " of " + std::to_string(warp_count_ * kWarp) +
         " threads wait at __syncthreads, " + std::to_string(left) + " have left the kernel";
}

// ---- fibers

void Machine::Enter(void* self) {
  Machine& machine = *static_cast<Machine*>(self);
  Lane& lane = *machine.running_;
  lane.fiber.Entered();
  try {
    (*machine.body_)();
    if (!lane.thread.copies.empty()) Fail("left the kernel with asynchronous copies not waited for");
  } catch (const Failure& failure) {
    machine.failure_ = failure.what();
  }
  Warp& warp = machine.warps_[lane.thread.thread.x / kWarp];
  warp.ready &= ~Bit(lane.thread.lane);
  warp.done |= Bit(lane.thread.lane);
  machine.Leave(true);
}

void Machine::Resume(Lane& lane) {
  running_ = &lane;
  current = &lane.thread;
  Switch(scheduler_, lane.fiber);
}

// Goes on with the warp's next lane that is ready, else with the scheduler.
void Machine::Leave(bool finished) {
  Lane& self = *running_;
  const int warp = static_cast<int>(self.thread.thread.x) / kWarp;
  const uint32_t ready = warps_[static_cast<size_t>(warp)].ready;
  if (ready == 0) Fold(warp);
  if (ready == 0 || !failure_.empty()) {
    Switch(self.fiber, scheduler_, finished);
    return;
  }
  const int next = (self.thread.lane + std::countr_zero(std::rotr(ready, self.thread.lane))) % kWarp;
  running_ = &At(warp, next);
  current = &running_->thread;
  Switch(self.fiber, running_->fiber, finished);
}

void Machine::ArriveAtBarrier() {
  const Thread& self = running_->thread;
  Warp& warp = warps_[self.thread.x / kWarp];
  warp.ready &= ~Bit(self.lane);
  warp.at_barrier |= Bit(self.lane);
  Leave();
}

void Machine::Arrive(const char* name, void* operand, Perform perform) {
  Lane& self = *running_;
  const int warp = static_cast<int>(self.thread.thread.x) / kWarp;
  self.operand = operand;
  self.name = name;
  self.perform = perform;
  uint32_t& ready = warps_[static_cast<size_t>(warp)].ready;
  ready &= ~Bit(self.thread.lane);
  if (ready != 0) return Leave();  // the other lanes have yet to come
  Complete(warp);
  ready = kAllLanes;
  if (random_() % 16 == 0) Pause();  // another warp may go on
}

// The running lane is the last of its warp to arrive.
void Machine::Complete(int warp) {
  const Lane& last = *running_;
  const Warp& state = warps_[static_cast<size_t>(warp)];
  if ((state.at_barrier | state.done) != 0) FailIncomplete(warp, last);
  Operands operands;
  for (int i = 0; i < kWarp; ++i) {
    const Lane& lane = At(warp, i);
    if (lane.perform != last.perform) FailIncomplete(warp, last);
    operands[static_cast<size_t>(i)] = lane.operand;
  }
  Fold(warp);
  last.perform(operands);
}

void Machine::Fold(int warp) {
  std::array<Thread*, kWarp> threads;
  for (int i = 0; i < kWarp; ++i) threads[static_cast<size_t>(i)] = &At(warp, i).thread;
  FoldAccesses(threads);
}

void Machine::FailIncomplete(int warp, const Lane& last) const {
  const Warp& state = warps_[static_cast<size_t>(warp)];
  std::string missing;
  for (int i = 0; i < kWarp; ++i) {
    const char* place = (state.done & Bit(i)) != 0            ? "after the kernel's end"
                        : (state.at_barrier & Bit(i)) != 0    ? "at __syncthreads"
                        : At(warp, i).perform != last.perform ? At(warp, i).name
                                                              : nullptr;
    if (place == nullptr) continue;
    if (!missing.empty()) missing += ", ";
    missing += std::to_string(i);
    missing.append(" (").append(place).append(")");
  }
  Fail("%s without lanes %s", last.name, missing.c_str());
}

}  // namespace

// What the runtime checks fails the call; what the kernel does wrong is known when it runs.
cudaError_t Launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread) {
  if (const cudaError_t error = Begin("cudaLaunchKernelEx"); error != cudaSuccess) return error;
  if (const std::string fault = CheckLaunch(config, kernel); !fault.empty()) {
    return SetFailure(cudaErrorInvalidConfiguration, fault);
  }
  return Enqueue(config.stream, [=, thread = std::move(thread), planned = CountKernel()]() -> Fault {
    if (!planned.ok()) return planned;
    std::string fault = TheMachine().Run(config, kernel, thread);
    if (fault.empty()) return {};
    return {cudaErrorLaunchFailure, std::move(fault)};
  });
}

void Fail(const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Failure(Name(Current()) + ": " + text);
}

void SyncBlock() { TheMachine().ArriveAtBarrier(); }

void Exchange(const char* name, void* operand, Perform perform) { TheMachine().Arrive(name, operand, perform); }

void CheckMask(const char* name, unsigned mask) {
  if (mask != kAllLanes) Fail("%s with mask %08x: only whole warps are emulated", name, mask);
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
      bits |= static_cast<unsigned>(static_cast<const Operand*>(operands[static_cast<size_t>(lane)])->predicate)
              << lane;
    }
    for (void* each : operands) static_cast<Operand*>(each)->result = bits;
  });
  return operand.result;
}

}  // namespace sas::emulator
