// A stack of its own and a way to it. x86-64: saves the callee-saved registers on the stack; elsewhere: ucontext.
// Address sanitizers are told of every switch.
#pragma once

#include <cstddef>
#include <memory>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace sas::emulator {

class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next switch to this fiber calls `entry(argument)`, which calls Entered first and never returns. Reuses the
  // stack.
  void Start(void (*entry)(void*), void* argument);
  void Entered();

 private:
  friend void Switch(Fiber& from, Fiber& to, bool finished);

  unsigned char* stack_ = nullptr;  // null: the thread's own stack
  size_t stack_bytes_ = 0;
  size_t colour_ = 0;  // bytes left free at the stack's start
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  void* fake_stack_ = nullptr;      // of the address sanitizer
  Fiber* switched_from_ = nullptr;  // who gave control last
  bool finished_ = false;           // has come to its end
};

// Goes on in `to`, until something switches back to `from`, which nothing does if `from` is `finished`.
void Switch(Fiber& from, Fiber& to, bool finished = false);

}  // namespace sas::emulator
