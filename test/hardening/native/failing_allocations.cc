// Replaces operator new in the process it is preloaded into (LD_PRELOAD), so that chosen allocations made by the
// addon's own code fail. SAS_TEST_ALLOCATIONS names a file of four 64-bit integers, mapped here and written by the
// test: first and last of those to fail (0: none), seen (how many there have been), only_device (1: count only the
// aligned ones, the memory of tensors and scratch).
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

struct Control {
  std::atomic<int64_t> first, last, seen, only_device;
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

// Whether the allocation that `caller` asks for is the one to fail.
bool Fails(const void* caller, bool device) {
  if (control == nullptr || control->first.load(std::memory_order_relaxed) == 0) return false;
  if (!device && control->only_device.load(std::memory_order_relaxed) != 0) return false;
  Dl_info info;
  if (dladdr(caller, &info) == 0 || std::strstr(info.dli_fname, "sas_attention") == nullptr) return false;
  const int64_t number = ++control->seen;
  return number >= control->first && number <= control->last;
}

size_t RoundUp(size_t bytes, size_t alignment) { return (bytes + alignment - 1) / alignment * alignment; }

}  // namespace

void* operator new(size_t bytes) {
  if (Fails(__builtin_return_address(0), false)) throw std::bad_alloc();
  if (void* data = std::malloc(bytes == 0 ? 1 : bytes)) return data;
  throw std::bad_alloc();
}

void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  if (Fails(__builtin_return_address(0), false)) return nullptr;
  return std::malloc(bytes == 0 ? 1 : bytes);
}

void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  if (Fails(__builtin_return_address(0), true)) return nullptr;
  const auto align = static_cast<size_t>(alignment);
  return std::aligned_alloc(align, RoundUp(bytes == 0 ? 1 : bytes, align));
}

void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
void operator delete(void* data, std::align_val_t) noexcept { std::free(data); }
