// Runs CUDA kernels on the CPU, so that a fault in a kernel's logic shows without a GPU:
//   - every thread is a fiber; a warp's collectives (shuffle, ballot, ldmatrix, mma) are exchanges that all 32 lanes
//   must
//     reach together, or the launch fails with the names of the lanes that did not;
//   - blocks and warps run in an order drawn from a seed (SAS_EMULATOR_SEED), warps are interrupted at collectives, and
//   now
//     and then one is left behind for as long as barriers allow: a missing barrier shows; a barrier fails if a thread
//     has left the kernel;
//   - an asynchronous copy turns its target into NaN at once and brings the data when it is waited for; shared and
//   fresh
//     device memory holds NaN;
//   - limits of the emulated device (shared memory, threads per block), the alignment and the bounds of 16-byte
//   accesses
//     are enforced; memory is surrounded by guard zones that every launch leaves untouched, or fails;
//   - bank conflicts and uncoalesced accesses are counted per kernel, for what passes through ptx.cuh
//     (SAS_EMULATOR_REPORT=file writes them at exit).
//   - streams are late: what they are given is done at some later call, and use of memory before or after its life, by
//     the device or the host, shows (streams.h); every call can be made to fail (faults.h).
// Not seen: races on plain accesses between two collectives of one warp, races between blocks, reads outside of an
// allocation by plain accesses (the address sanitizer's build sees those), rounding inside a tensor-core product.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

namespace sas::emulator {

constexpr int kWarp = 32;

struct Index3 {
  unsigned x, y, z;
};

struct KernelCounts {
  uint64_t launches = 0;
  uint64_t matrix_loads = 0, matrix_conflicts = 0;   // 8-row phases, extra cycles they take
  uint64_t global_accesses = 0;                      // warp-wide 16-byte accesses to device memory
  uint64_t global_sectors = 0, ideal_sectors = 0;    // 32-byte sectors they touch, and would if contiguous
  uint64_t products = 0;                             // mma
  uint64_t most_shared_bytes = 0, most_threads = 0;  // of a block, over all launches
};

// The running block, as its threads see it.
struct Block {
  Index3 index, size, grid;
  unsigned char* shared;
  size_t shared_bytes;
  KernelCounts* counts;
};

// A copy that has been asked for and not waited for.
struct PendingCopy {
  void* target;
  const void* source;  // null: zeros
  size_t bytes;
  int group;
};

// The running thread.
struct Thread {
  Index3 thread;
  int lane;
  const Block* block;
  std::vector<PendingCopy> copies;
  int open_group = 0;                 // the group that copies are added to
  std::vector<const void*> accesses;  // 16-byte accesses to device memory since the last collective
};

extern thread_local Thread* current;
inline Thread& Current() { return *current; }

// Fails the launch; the message reaches cudaGetErrorString.
[[noreturn]] void Fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void SyncBlock();

// What a lane brings to a collective: all lanes of the warp call with the same `perform`; the last to arrive runs it
// with every lane's `operand` in order of lanes.
using Operands = std::array<void*, kWarp>;
using Perform = void (*)(const Operands&);
void Exchange(const char* name, void* operand, Perform perform);

void CheckMask(const char* name, unsigned mask);
void SyncWarp(unsigned mask);
unsigned Ballot(unsigned mask, bool predicate);

// `source` is the lane to read from.
template <class T>
T Shuffle(const char* name, unsigned mask, T value, int source) {
  struct Operand {
    T in, out;
    int source;
  } operand{value, value, source};
  CheckMask(name, mask);
  if (source < 0 || source >= kWarp) Fail("%s from lane %d", name, source);
  Exchange(name, &operand, [](const Operands& operands) {
    for (void* each : operands) {
      Operand& own = *static_cast<Operand*>(each);
      own.out = static_cast<const Operand*>(operands[static_cast<size_t>(own.source)])->in;
    }
  });
  return operand.out;
}

// ---- asynchronous copies of the running thread
void CopyAsync(void* shared, const void* global, size_t bytes, bool valid);
void CopyAsyncCommit();
void CopyAsyncWait(int pending);

// ---- checks and counts
// One access of 16 bytes by the running lane to shared or device memory; accesses of a warp's lanes between two
// collectives are taken together, first with first, second with second.
void CountVector(const void* address);
// The row addresses of one ldmatrix of `matrices` 8x16-byte matrices.
void CountMatrixRows(const Operands& addresses, int matrices);
bool InShared(const void* address, size_t bytes);
inline KernelCounts& Counts() { return *Current().block->counts; }

// c [16, 8] += a [16, depth] b [depth, 8], all row-major, each sum exact and rounded towards zero once.
void MultiplyTile(int depth, const float* a, const float* b, float* c);

}  // namespace sas::emulator
