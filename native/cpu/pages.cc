#include "cpu/pages.h"

#include <sys/mman.h>

#include <new>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace sas::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

std::align_val_t Alignment(size_t bytes) { return std::align_val_t{bytes >= kHugePage ? kHugePage : 64}; }

}  // namespace

void* AllocatePages(size_t bytes) {
  void* data = ::operator new(bytes, Alignment(bytes), std::nothrow);
#if defined(MADV_HUGEPAGE)
  // Whole pages only, so that no more memory is taken than asked for. It is a hint: failure does not matter.
  if (data != nullptr && bytes >= kHugePage) madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return data;
}

void FreePages(void* data, size_t bytes) { ::operator delete(data, Alignment(bytes)); }

void TrimPages() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace sas::cpu
