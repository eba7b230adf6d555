// Runs CUDA kernels on the CPU, so that a fault in a kernel's logic shows without a GPU:
//   - every thread is a fiber; a warp's collectives (shuffle, ballot, ldmatrix, mma) are exchanges that all 32 lanes must
//     reach together, or the launch fails with the names of the lanes that did not;
//   - warps run in an order drawn from a seed (SAS_EMULATOR_SEED) and are interrupted at collectives, so that a missing
//     barrier shows; a barrier fails if a thread has left the kernel;
//   - asynchronous copies happen only when they are waited for; shared and fresh device memory holds NaN;
//   - limits of the emulated device (shared memory, threads per block) and the alignment of vector accesses are enforced;
//   - bank conflicts and uncoalesced accesses are counted per kernel, for what passes through ptx.cuh
//     (SAS_EMULATOR_REPORT=1 prints them at exit).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

namespace sas::emulator {

struct Index3 {
  unsigned x, y, z;
};

// The running block, as its threads see it.
struct Block {
  Index3 index, size, grid;
  unsigned char* shared;
  size_t shared_bytes;
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
  int open_group = 0;  // the group that copies are added to
};

extern thread_local Thread* current;
inline Thread& Current() { return *current; }

// Fails the launch; the message reaches cudaGetErrorString.
[[noreturn]] void Fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void SyncBlock();

// What a lane brings to a collective: all lanes of the warp call with the same `name`; the last to arrive runs `perform` with
// every lane's `operand` in order of lanes.
using Operands = std::array<void*, 32>;
void Exchange(const char* name, void* operand, void (*perform)(const Operands&));

void CheckMask(const char* name, unsigned mask);
void SyncWarp(unsigned mask);
unsigned Ballot(unsigned mask, bool predicate);

template <class T, class Source>
T Shuffle(unsigned mask, T value, Source source) {
  struct Operand {
    T in, out;
    Source source;
  } operand{value, value, source};
  CheckMask("shuffle", mask);
  Exchange("shuffle", &operand, [](const Operands& operands) {
    for (int lane = 0; lane < 32; ++lane) {
      Operand& own = *static_cast<Operand*>(operands[lane]);
      own.out = static_cast<const Operand*>(operands[own.source(lane)])->in;
    }
  });
  return operand.out;
}

// ---- asynchronous copies of the running thread
void CopyAsync(void* shared, const void* global, size_t bytes, bool valid);
void CopyAsyncCommit();
void CopyAsyncWait(int pending);

// ---- checks and counts
enum class Access { kMatrixLoad, kVectorLoad, kVectorStore, kCopy };
// One access of 16 bytes by the running lane; accesses of a warp's lanes between two collectives are taken together, first
// with first, second with second.
void CountVector(const void* address, Access access);
// The row addresses of one ldmatrix of `matrices` 8x16-byte matrices.
void CountMatrixRows(const Operands& addresses, int matrices);
bool InShared(const void* address, size_t bytes);

struct KernelCounts {
  uint64_t launches = 0;
  uint64_t matrix_loads = 0, matrix_conflicts = 0;  // 8-row phases, extra cycles they take
  uint64_t global_accesses = 0;                     // warp-wide 16-byte accesses to device memory
  uint64_t global_sectors = 0, ideal_sectors = 0;   // 32-byte sectors they touch, and would if contiguous
  uint64_t products = 0;                            // mma
};
KernelCounts& Counts();  // of the running kernel

}  // namespace sas::emulator
