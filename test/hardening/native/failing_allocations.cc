// Replaces operator new and mmap in the process it is preloaded into (LD_PRELOAD), so that chosen allocations made by
// the addon's own code fail. SAS_TEST_ALLOCATIONS names a file of four 64-bit integers, mapped here and written by the
// test: number of the one to fail (0: none), seen (how many there have been), only_device (1: count only the aligned
// ones and mappings, the memory of tensors and scratch, and let all of the same size that follow fail: the pool asks
// again), and that size.
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

struct Control {
  std::atomic<int64_t> number, seen, only_device, size;
};

Control* Open() {
  const char* path = std::getenv("SAS_TEST_ALLOCATIONS");
  const int file = path == nullptr ? -1 : open(path, O_RDWR);
  if (file < 0) return nullptr;
  void* data = mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  return data == MAP_FAILED ? nullptr : static_cast<Control*>(data);
}

Control* const control = Open();

// The addresses of the addon's code; it is loaded once, by the main thread, before anything is to fail.
struct Range {
  uintptr_t begin = 0, end = 0;
};
Range FindAddon() {
  Range range;
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void* found) {
        if (std::strstr(object->dlpi_name, "sas_attention") == nullptr) return 0;
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const auto& segment = object->dlpi_phdr[i];
          if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
          const uintptr_t begin = object->dlpi_addr + segment.p_vaddr;
          *static_cast<Range*>(found) = {begin, begin + segment.p_memsz};
        }
        return 1;
      },
      &range);
  return range;
}

// Whether the allocation that `caller` asks for is one to fail.
bool Fails(const void* caller, size_t bytes, bool device) {
  if (control == nullptr || control->number.load(std::memory_order_relaxed) == 0) return false;
  const bool only_device = control->only_device.load(std::memory_order_relaxed) != 0;
  if (!device && only_device) return false;
  static const Range addon = FindAddon();
  const auto address = reinterpret_cast<uintptr_t>(caller);
  if (address < addon.begin || address >= addon.end) return false;
  const int64_t seen = ++control->seen, size = static_cast<int64_t>(bytes);
  if (seen == control->number) control->size = size;
  return seen == control->number || (only_device && seen > control->number && size == control->size);
}

size_t RoundUp(size_t bytes, size_t alignment) { return (bytes + alignment - 1) / alignment * alignment; }

}  // namespace

void* operator new(size_t bytes) {
  if (Fails(__builtin_return_address(0), bytes, false)) throw std::bad_alloc();
  if (void* data = std::malloc(bytes == 0 ? 1 : bytes)) return data;
  throw std::bad_alloc();
}

void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  if (Fails(__builtin_return_address(0), bytes, false)) return nullptr;
  return std::malloc(bytes == 0 ? 1 : bytes);
}

void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  if (Fails(__builtin_return_address(0), bytes, true)) return nullptr;
  const auto align = static_cast<size_t>(alignment);
  return std::aligned_alloc(align, RoundUp(bytes == 0 ? 1 : bytes, align));
}

extern "C" void* mmap(void* at, size_t bytes, int protection, int flags, int file, off_t offset) noexcept {
  if (Fails(__builtin_return_address(0), bytes, true)) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(syscall(SYS_mmap, at, bytes, protection, flags, file, offset));
}

void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
void operator delete(void* data, std::align_val_t) noexcept { std::free(data); }
