// Preloaded into Node (LD_PRELOAD): records what it does to the files under one folder, and lets one chosen call fail.
// SAS_TEST_FILES names the folder; SAS_TEST_CONTROL a file of four 64-bit integers, mapped here and written by the
// test: fail_at (which call fails, from 1; 0: none), seen (how many there have been), error (the errno; -1: the call
// does half of what it was asked for), trace (whether to record); SAS_TEST_TRACE the file that calls are appended to,
// one a line.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>

namespace {

struct Control {
  std::atomic<int64_t> fail_at, seen, error, trace;
};

template <typename F>
F* Next(const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

const auto real_open = Next<int(const char*, int, ...)>("open64");
const auto real_close = Next<int(int)>("close");
const auto real_write = Next<ssize_t(int, const void*, size_t)>("write");

Control* Map() {
  const char* path = std::getenv("SAS_TEST_CONTROL");
  const int file = path == nullptr ? -1 : real_open(path, O_RDWR | O_CLOEXEC);
  if (file < 0) return nullptr;
  void* data = mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  real_close(file);
  return data == MAP_FAILED ? nullptr : static_cast<Control*>(data);
}

int OpenTrace() {
  const char* path = std::getenv("SAS_TEST_TRACE");
  return path == nullptr ? -1 : real_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

Control* const control = Map();
const char* const folder = std::getenv("SAS_TEST_FILES");
const int trace = OpenTrace();
std::mutex mutex;
constexpr int kFiles = 4096;
std::atomic<bool> ours[kFiles];  // by descriptor

bool Ours(const char* path) {
  return control != nullptr && folder != nullptr && path != nullptr &&
         std::string_view(path).substr(0, strlen(folder)) == folder;
}
bool Ours(int file) { return control != nullptr && file >= 0 && file < kFiles && ours[file].load(); }

// 0: the call goes on; -1: by half; else the errno it fails with.
int64_t Fate(bool writes = false) {
  const int64_t number = ++control->seen, first = control->fail_at, error = control->error;
  if (first == 0 || number < first) return 0;
  if (number == first) return error > 0 ? error : -1;
  return writes && error < -1 ? -error : 0;
}

void Record(const std::string& line) {
  if (control->trace == 0 || trace < 0) return;
  const std::lock_guard lock(mutex);
  const std::string text = line + "\n";
  for (size_t done = 0; done < text.size();) {
    const ssize_t count = real_write(trace, text.data() + done, text.size() - done);
    if (count <= 0) std::abort();
    done += static_cast<size_t>(count);
  }
}

std::string Hex(const void* data, size_t bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < bytes; ++i) {
    const unsigned char byte = static_cast<const unsigned char*>(data)[i];
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

// One call on files of ours: fails as its fate is, else is done, and recorded where it succeeds.
template <typename Do, typename Describe>
auto Call(Do&& call, Describe&& describe) -> decltype(call()) {
  if (const int64_t fate = Fate(); fate > 0) {
    errno = static_cast<int>(fate);
    return static_cast<decltype(call())>(-1);
  }
  const auto result = call();
  const int error = errno;
  if (result >= 0) Record(describe());
  errno = error;
  return result;
}

// A read or write of `bytes`, of which less may be done.
template <typename Do, typename Describe>
ssize_t Transfer(bool writes, size_t bytes, Do&& call, Describe&& describe) {
  const int64_t fate = Fate(writes);
  if (fate > 0) {
    errno = static_cast<int>(fate);
    return -1;
  }
  const ssize_t result = call(fate < 0 ? (bytes + 1) / 2 : bytes);
  const int error = errno;
  if (result >= 0) describe(static_cast<size_t>(result));
  errno = error;
  return result;
}

int Open(const char* path, int flags, mode_t mode) {
  if (!Ours(path)) return real_open(path, flags, mode);
  int file = -1;
  return Call(
      [&] {
        file = real_open(path, flags, mode);
        if (file >= 0 && file < kFiles) ours[file] = true;
        return file;
      },
      [&] {
        const bool creates = (flags & O_CREAT) != 0, truncates = (flags & O_TRUNC) != 0;
        return "open " + std::to_string(file) + (creates ? " create" : truncates ? " truncate" : " plain") + " " + path;
      });
}

mode_t ModeOf(int flags, va_list rest) { return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0; }

ssize_t Write(int file, const void* data, size_t bytes, off64_t at,
              ssize_t (*pwrite)(int, const void*, size_t, off64_t)) {
  return Transfer(
      true, bytes, [&](size_t count) { return pwrite ? pwrite(file, data, count, at) : real_write(file, data, count); },
      [&](size_t done) {
        const off64_t begin = pwrite ? at : lseek64(file, 0, SEEK_CUR) - static_cast<off64_t>(done);
        Record("write " + std::to_string(file) + " " + std::to_string(begin) + " " + Hex(data, done));
      });
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = ModeOf(flags, rest);
  va_end(rest);
  return Open(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = ModeOf(flags, rest);
  va_end(rest);
  return Open(path, flags, mode);
}

// Closes in any case, as the kernel does.
int close(int file) {
  if (!Ours(file)) return real_close(file);
  ours[file] = false;
  const int64_t fate = Fate();
  Record("close " + std::to_string(file));
  const int result = real_close(file);
  if (fate <= 0) return result;
  errno = static_cast<int>(fate);
  return -1;
}

ssize_t write(int file, const void* data, size_t bytes) {
  return Ours(file) ? Write(file, data, bytes, 0, nullptr) : real_write(file, data, bytes);
}

ssize_t pwrite64(int file, const void* data, size_t bytes, off64_t at) {
  static const auto real = Next<ssize_t(int, const void*, size_t, off64_t)>("pwrite64");
  return Ours(file) ? Write(file, data, bytes, at, real) : real(file, data, bytes, at);
}

ssize_t read(int file, void* data, size_t bytes) {
  static const auto real = Next<ssize_t(int, void*, size_t)>("read");
  if (!Ours(file)) return real(file, data, bytes);
  return Transfer(
      false, bytes, [&](size_t count) { return real(file, data, count); }, [](size_t) {});
}

ssize_t pread64(int file, void* data, size_t bytes, off64_t at) {
  static const auto real = Next<ssize_t(int, void*, size_t, off64_t)>("pread64");
  if (!Ours(file)) return real(file, data, bytes, at);
  return Transfer(
      false, bytes, [&](size_t count) { return real(file, data, count, at); }, [](size_t) {});
}

int fsync(int file) {
  static const auto real = Next<int(int)>("fsync");
  if (!Ours(file)) return real(file);
  return Call([&] { return real(file); }, [&] { return "sync " + std::to_string(file); });
}

int fdatasync(int file) {
  static const auto real = Next<int(int)>("fdatasync");
  if (!Ours(file)) return real(file);
  return Call([&] { return real(file); }, [&] { return "sync " + std::to_string(file); });
}

int ftruncate64(int file, off64_t size) {
  static const auto real = Next<int(int, off64_t)>("ftruncate64");
  if (!Ours(file)) return real(file, size);
  return Call([&] { return real(file, size); },
              [&] { return "cut " + std::to_string(file) + " " + std::to_string(size); });
}

int fchmod(int file, mode_t mode) {
  static const auto real = Next<int(int, mode_t)>("fchmod");
  if (!Ours(file)) return real(file, mode);
  return Call([&] { return real(file, mode); }, [&] { return "chmod " + std::to_string(file); });
}

int fchown(int file, uid_t user, gid_t group) {
  static const auto real = Next<int(int, uid_t, gid_t)>("fchown");
  if (!Ours(file)) return real(file, user, group);
  return Call([&] { return real(file, user, group); }, [&] { return "chown " + std::to_string(file); });
}

int rename(const char* from, const char* to) {
  static const auto real = Next<int(const char*, const char*)>("rename");
  if (!Ours(from)) return real(from, to);
  return Call([&] { return real(from, to); }, [&] { return std::string("rename ") + from + " " + to; });
}

int link(const char* from, const char* to) {
  static const auto real = Next<int(const char*, const char*)>("link");
  if (!Ours(from)) return real(from, to);
  return Call([&] { return real(from, to); }, [&] { return std::string("link ") + from + " " + to; });
}

int unlink(const char* path) {
  static const auto real = Next<int(const char*)>("unlink");
  if (!Ours(path)) return real(path);
  return Call([&] { return real(path); }, [&] { return std::string("unlink ") + path; });
}

int mkdir(const char* path, mode_t mode) {
  static const auto real = Next<int(const char*, mode_t)>("mkdir");
  if (!Ours(path)) return real(path, mode);
  return Call([&] { return real(path, mode); }, [&] { return std::string("mkdir ") + path; });
}

ssize_t readlink(const char* path, char* target, size_t bytes) {
  static const auto real = Next<ssize_t(const char*, char*, size_t)>("readlink");
  if (!Ours(path)) return real(path, target, bytes);
  return Call([&] { return real(path, target, bytes); }, [&] { return std::string("readlink ") + path; });
}

char* realpath(const char* path, char* resolved) {
  static const auto real = Next<char*(const char*, char*)>("realpath");
  if (!Ours(path)) return real(path, resolved);
  if (const int64_t fate = Fate(); fate > 0) {
    errno = static_cast<int>(fate);
    return nullptr;
  }
  return real(path, resolved);
}

// libuv's ways to close and statx. Its arguments are read whether or not there are as many, as the real one does.
long syscall(long number, ...) {
  static const auto real = Next<long(long, ...)>("syscall");
  va_list rest;
  va_start(rest, number);
  long a[6];
  for (long& argument : a) argument = va_arg(rest, long);
  va_end(rest);
  const auto call = [&] { return real(number, a[0], a[1], a[2], a[3], a[4], a[5]); };
  if (number == SYS_close) return close(static_cast<int>(a[0]));
  if (number != SYS_statx) return call();
  const auto* path = reinterpret_cast<const char*>(a[1]);
  const bool own = path != nullptr && *path != '\0' ? Ours(path) : Ours(static_cast<int>(a[0]));
  return own ? Call(call, [&] { return std::string("stat"); }) : call();
}

}  // extern "C"
