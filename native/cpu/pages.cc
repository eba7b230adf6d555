#include "cpu/pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <numeric>
#include <string>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace sas::cpu {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kHugePage = 2 * kMiB;
constexpr size_t kAlignment = 64;

// From here on blocks are mapped one by one, so that their pages go back when they do: the C library would keep some.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kLarge = ~size_t{0};  // so that the sanitizer sees whatever lies beyond
#else
constexpr size_t kLarge = kMiB / 4;
#endif

// How often the room under a limit is looked at: it takes tens of microseconds, which new pages of this many bytes do
// too.
constexpr size_t kCheckEvery = 4 * kMiB;
// What is left to the rest of the process, whose heap grows beside tensors.
size_t Margin(uint64_t limit) { return std::clamp<size_t>(limit / 32, 16 * kMiB, 256 * kMiB); }

size_t WholePages(size_t bytes) {
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  return (bytes + page - 1) / page * page;
}

// Null if there is none. Begins with a huge page where it holds one.
char* Map(size_t bytes) {
  const size_t size = WholePages(bytes), spare = bytes >= kHugePage ? kHugePage : 0;
  void* const mapped = mmap(nullptr, size + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* const begin = static_cast<char*>(mapped);
  if (spare == 0) return begin;
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  char* const data = begin + before;
  if (before > 0) munmap(begin, before);
  if (before < spare) munmap(data + size, spare - before);
#if defined(MADV_HUGEPAGE)
  // Whole pages only, so that no more memory is taken than asked for. It is a hint: failure does not matter.
  madvise(data, size / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return data;
}

}  // namespace

Status Pages::Allocate(size_t bytes, void** data) {
  const std::unique_lock lock = limited_ ? std::unique_lock(mutex_) : std::unique_lock<std::mutex>();
  if (limited_) {
    if (Status status = CheckRoom(bytes); !status.ok()) return status;
  }
  *data = bytes >= kLarge ? Map(bytes) : ::operator new (bytes, std::align_val_t{kAlignment}, std::nothrow);
  if (*data == nullptr) return Status(StatusCode::kOutOfMemory, "the system has no more");
  if (limited_ && bytes >= kLarge) {
    try {
      mapped_.emplace(static_cast<char*>(*data), bytes);
    } catch (const std::bad_alloc&) {  // counted as if it were in use
    }
  }
  return {};
}

void Pages::Free(void* data, size_t bytes) noexcept {
  if (bytes < kLarge) {
    ::operator delete (data, std::align_val_t{kAlignment});
    return;
  }
  if (limited_) Forget(static_cast<char*>(data), bytes);
  munmap(data, WholePages(bytes));
}

void Pages::Forget(char* data, size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  auto block = mapped_.upper_bound(data);
  if (block == mapped_.begin()) return;
  const auto [begin, size] = *--block;
  if (data + bytes > begin + size) return;
  block->second = static_cast<size_t>(data - begin);
  if (block->second == 0) mapped_.erase(block);
  if (data + bytes == begin + size) return;
  try {
    mapped_.emplace(data + bytes, static_cast<size_t>(begin + size - data) - bytes);
  } catch (const std::bad_alloc&) {  // counted as if it were in use
  }
}

// A limit is kept by counting pages once they are touched. So there must be room for those too that earlier blocks have
// been promised and that nobody has touched yet.
Status Pages::CheckRoom(size_t bytes) {
  unchecked_ += std::min(bytes, kCheckEvery);
  if (unchecked_ < kCheckEvery) return {};
  const auto room = cgroup_.MemoryRoom();
  const auto limit = cgroup_.MemoryLimit();
  if (room && limit) {
    const size_t margin = Margin(*limit);
    const auto fits = [&](size_t untouched) {
      return bytes <= *room && margin <= *room - bytes && untouched <= *room - bytes - margin;
    };
    const size_t all = std::accumulate(mapped_.begin(), mapped_.end(), size_t{0},
                                       [](size_t sum, const auto& block) { return sum + block.second; });
    if (!fits(all) && !fits(Untouched())) {
      return Status(StatusCode::kOutOfMemory,
                    "the container's limit of " + std::to_string(*limit) + " leaves " + std::to_string(*room));
    }
  }
  unchecked_ = 0;
  return {};
}

// Of large blocks, to within a huge page of each: a page of each huge page is looked at, the last, as most are filled
// from the beginning.
size_t Pages::Untouched() const {
  size_t sum = 0;
  const size_t page = WholePages(1);
  for (const auto& [data, bytes] : mapped_) {
    for (size_t at = 0; at < bytes; at += kHugePage) {
      const size_t part = std::min(kHugePage, bytes - at);
      unsigned char present = 1;
      if (mincore(data + at + WholePages(part) - page, page, &present) != 0) continue;
      if ((present & 1) == 0) sum += part;
    }
  }
  return sum;
}

void Pages::Trim() noexcept {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace sas::cpu
