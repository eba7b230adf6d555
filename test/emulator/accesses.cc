// Asynchronous copies, and the checks and counts of 16-byte accesses.
#include "accesses.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "memory.h"

namespace sas::emulator {
namespace {

// What the target of a copy holds until it is waited for: large, but finite in every float type, for f32 products take
// sums that are not finite again from device memory, and are right then.
constexpr int kPending = 0xc2;
constexpr size_t kSectorBytes = 32;

// The allocations that the running kernel has touched last.
thread_local std::array<Range, 8> recent;
thread_local size_t oldest = 0;

bool InDevice(const void* address, size_t bytes) {
  for (const Range& range : recent) {
    if (range.Contains(address, bytes)) return true;
  }
  const Range range = DeviceMemory().Find(address);
  if (!range.Contains(address, bytes)) return false;
  recent[oldest++ % recent.size()] = range;
  return true;
}

// What is wrong with an address that is not in device memory.
std::string WrongWith(const void* address, size_t bytes) {
  std::string why;
  static_cast<void>(DeviceMemory().Usable(address, bytes, &why));
  return why;
}

bool Aligned(const void* address, size_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

}  // namespace

void ForgetAllocations() { recent.fill({}); }

bool InShared(const void* address, size_t bytes) {
  const Block& block = *Current().block;
  return Range{block.shared, block.shared + block.shared_bytes}.Contains(address, bytes);
}

// ---- asynchronous copies

void CopyAsync(void* shared, const void* global, size_t bytes, bool valid) {
  if (!InShared(shared, bytes)) Fail("asynchronous copy to an address outside of shared memory");
  if (!Aligned(shared, bytes)) Fail("asynchronous copy to an address not aligned to %zu", bytes);
  if (!Aligned(global, bytes)) Fail("asynchronous copy from an address not aligned to %zu", bytes);
  if (valid && !InDevice(global, bytes)) {
    Fail("asynchronous copy from device memory %s", WrongWith(global, bytes).c_str());
  }
  Thread& thread = Current();
  memset(shared, kPending, bytes);  // the data may come at any time
  thread.copies.push_back({shared, valid ? global : nullptr, bytes, thread.open_group});
  if (valid) thread.accesses.push_back(global);
}

void CopyAsyncCommit() { ++Current().open_group; }

void CopyAsyncWait(int pending) {
  Thread& thread = Current();
  const auto due = [&](const PendingCopy& copy) { return copy.group < thread.open_group - pending; };
  for (const PendingCopy& copy : thread.copies) {
    if (!due(copy)) continue;
    const auto* target = static_cast<const unsigned char*>(copy.target);
    if (std::any_of(target, target + copy.bytes, [](unsigned char byte) { return byte != kPending; })) {
      Fail("the target of an asynchronous copy was written to before the copy was waited for");
    }
    if (copy.source == nullptr) {
      memset(copy.target, 0, copy.bytes);
    } else {
      memcpy(copy.target, copy.source, copy.bytes);
    }
  }
  std::erase_if(thread.copies, due);
}

// ---- checks and counts

void CountVector(const void* address) {
  if (!Aligned(address, 16)) Fail("16-byte access to an address not aligned to 16");
  if (InShared(address, 16)) return;
  if (!InDevice(address, 16)) {
    Fail("16-byte access to device memory %s", WrongWith(address, 16).c_str());
  }
  Current().accesses.push_back(address);
}

void FoldAccesses(const std::array<Thread*, kWarp>& lanes) {
  size_t longest = 0;
  for (const Thread* lane : lanes) longest = std::max(longest, lane->accesses.size());
  if (longest == 0) return;
  KernelCounts& counts = *lanes[0]->block->counts;
  for (size_t k = 0; k < longest; ++k) {
    std::array<uintptr_t, kWarp> sectors;
    size_t count = 0;
    for (const Thread* lane : lanes) {
      if (k < lane->accesses.size()) sectors[count++] = reinterpret_cast<uintptr_t>(lane->accesses[k]) / kSectorBytes;
    }
    std::sort(sectors.begin(), sectors.begin() + static_cast<ptrdiff_t>(count));
    const auto end = std::unique(sectors.begin(), sectors.begin() + static_cast<ptrdiff_t>(count));
    ++counts.global_accesses;
    counts.global_sectors += static_cast<uint64_t>(end - sectors.begin());
    counts.ideal_sectors += (count * 16 + kSectorBytes - 1) / kSectorBytes;
  }
  for (Thread* lane : lanes) lane->accesses.clear();
}

void CountMatrixRows(const Operands& addresses, int matrices) {
  KernelCounts& counts = Counts();
  for (int matrix = 0; matrix < matrices; ++matrix) {
    std::array<uint64_t, 8> rows;
    for (int i = 0; i < 8; ++i) {
      const void* row = addresses[static_cast<size_t>(8 * matrix + i)];
      if (!InShared(row, 16)) Fail("ldmatrix row %d of matrix %d lies outside of shared memory", i, matrix);
      if (!Aligned(row, 16)) Fail("ldmatrix row %d of matrix %d is not aligned to 16", i, matrix);
      rows[static_cast<size_t>(i)] = reinterpret_cast<uintptr_t>(row) / 16;
    }
    // Rows in the same group of four banks are read one after the other, equal rows at once.
    std::array<int, 8> load{};
    for (size_t i = 0; i < 8; ++i)
      load[rows[i] % 8] += std::find(rows.begin(), rows.begin() + i, rows[i]) == rows.begin() + i;
    ++counts.matrix_loads;
    counts.matrix_conflicts += static_cast<uint64_t>(*std::max_element(load.begin(), load.end()) - 1);
  }
}

}  // namespace sas::emulator
