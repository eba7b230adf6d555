#include "fiber.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace sas::emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 512 << 10;
constexpr size_t kLastFramesBytes = 16 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr size_t kGuardBytes = 4 << 10;
constexpr size_t kColours = 32, kColourBytes = 128;

}  // namespace

#if defined(__x86_64__)
extern "C" void sas_emulator_switch(void** save, void* load);
asm(R"(
.text
.local sas_emulator_switch
.type sas_emulator_switch, @function
sas_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
.size sas_emulator_switch, . - sas_emulator_switch
.local sas_emulator_start
.type sas_emulator_start, @function
sas_emulator_start:
  movq %rbx, %rdi
  xorl %ebp, %ebp
  callq *%r12
  ud2
.size sas_emulator_start, . - sas_emulator_start
)");
extern "C" void sas_emulator_start();
#endif

Fiber::~Fiber() {
  if (stack_ != nullptr) munmap(stack_ - kGuardBytes, stack_bytes_ + kGuardBytes);
}

void Fiber::Start(void (*entry)(void*), void* argument) {
  if (stack_ == nullptr) {
    void* memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, kGuardBytes, PROT_NONE);
    stack_ = static_cast<unsigned char*>(memory) + kGuardBytes;
    stack_bytes_ = kStackBytes;
    static std::atomic<size_t> count{0};
    colour_ = count++ % kColours * kColourBytes;
  }
#if defined(__SANITIZE_ADDRESS__)
  // A frame that returns takes its red zones with it: after a fiber that came to its end only those of its first frames
  // are left. Clearing the whole stack takes longer than most fibers run.
  const size_t bytes = finished_ ? kLastFramesBytes + colour_ : stack_bytes_;
  __asan_unpoison_memory_region(stack_ + stack_bytes_ - bytes, bytes);
  fake_stack_ = nullptr;
  finished_ = false;
#endif
  entry_ = entry;
  argument_ = argument;
#if defined(__x86_64__)
  // As sas_emulator_switch would have left it: six registers and a return address, the stack 16-byte aligned after
  // that. Stacks start at different offsets within a page, for the sake of the caches.
  struct Frame {
    void *r15, *r14, *r13, *r12, *rbx, *rbp, *return_address, *padding[2];
  };
  auto* frame = reinterpret_cast<Frame*>(stack_ + stack_bytes_ - colour_ - sizeof(Frame));
  *frame = {};
  frame->r12 = reinterpret_cast<void*>(entry);
  frame->rbx = argument;
  frame->return_address = reinterpret_cast<void*>(&sas_emulator_start);
  stack_pointer_ = frame;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = stack_bytes_;
  context_.uc_link = nullptr;
  const auto start = [](unsigned high, unsigned low) {
    auto* self = reinterpret_cast<Fiber*>(static_cast<uintptr_t>(high) << 32 | low);
    self->entry_(self->argument_);
  };
  const auto self = reinterpret_cast<uintptr_t>(this);
  makecontext(&context_, reinterpret_cast<void (*)()>(static_cast<void (*)(unsigned, unsigned)>(start)), 2,
              static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
#endif
}

void Fiber::Entered() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (switched_from_ != nullptr &&
      switched_from_->stack_ == nullptr) {  // the thread's own stack: now its place is known
    switched_from_->argument_ = const_cast<void*>(bottom);
    switched_from_->stack_bytes_ = bytes;
  }
#endif
}

void Switch(Fiber& from, Fiber& to, [[maybe_unused]] bool finished) {
  to.switched_from_ = &from;
#if defined(__SANITIZE_ADDRESS__)
  from.finished_ = finished;
  const void* bottom = to.stack_ != nullptr ? to.stack_ : to.argument_;
  __sanitizer_start_switch_fiber(finished ? nullptr : &from.fake_stack_, bottom, to.stack_bytes_);
#endif
#if defined(__x86_64__)
  sas_emulator_switch(&from.stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack_, nullptr, nullptr);
#endif
}

}  // namespace sas::emulator
