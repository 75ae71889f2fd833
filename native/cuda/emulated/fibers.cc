// See fibers.h. Stacks are switched by hand on x86-64: the system's own way asks the kernel for the
// signal mask each time, and a block switches some hundred times at every barrier.
#include "fibers.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)

// Keeps the registers that a function must keep on its stack, and the stack in *from.
extern "C" void ring_switch_stack(void** from, void* to);
asm(R"(
  .text
  .type ring_switch_stack, @function
  .hidden ring_switch_stack
  .globl ring_switch_stack
ring_switch_stack:
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
  ret
  .size ring_switch_stack, .-ring_switch_stack
)");

#endif

namespace emulated {
namespace {

constexpr size_t kStackBytes = 256 << 10;

#if defined(__x86_64__)

struct Context {
  void* stack_top = nullptr;
};
void switch_context(Context& from, Context& to) {
  ring_switch_stack(&from.stack_top, to.stack_top);
}
void prepare(Context& context, uint8_t* stack, void (*entry)()) {
  // The entry finds its stack as after a call: a return address above it, aligned to 16 there.
  auto* top = reinterpret_cast<uintptr_t*>(stack + kStackBytes - 64);
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  context.stack_top = top;
}

#else

struct Context {
  ucontext_t registers;
};
void switch_context(Context& from, Context& to) { swapcontext(&from.registers, &to.registers); }
void prepare(Context& context, uint8_t* stack, void (*entry)()) {
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = stack;
  context.registers.uc_stack.ss_size = kStackBytes;
  context.registers.uc_link = nullptr;
  makecontext(&context.registers, entry, 0);
}

#endif

struct Fiber {
  Context context;
  uint8_t* stack = nullptr;
  void* sanitizer_state = nullptr;
  bool has_ended = false;
};

// One block runs at a time (see launch), so all of this is one thread's.
std::vector<Fiber>& fibers() {
  static std::vector<Fiber> all;
  return all;
}
Context host;
[[maybe_unused]] void* host_sanitizer_state = nullptr;
[[maybe_unused]] const void* host_stack = nullptr;
[[maybe_unused]] size_t host_stack_bytes = 0;
int running = -1;
uint64_t progress = 0;
const std::function<void(int)>* work = nullptr;

void resume(int index) {
  Fiber& fiber = fibers()[static_cast<size_t>(index)];
  running = index;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&host_sanitizer_state, fiber.stack, kStackBytes);
#endif
  switch_context(host, fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(host_sanitizer_state, nullptr, nullptr);
#endif
}

void leave(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fiber.has_ended ? nullptr : &fiber.sanitizer_state, host_stack,
                                 host_stack_bytes);
#endif
  switch_context(fiber.context, host);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.sanitizer_state, &host_stack, &host_stack_bytes);
#endif
}

void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_bytes);
#endif
  (*work)(running);
  ++progress;
  Fiber& fiber = fibers()[static_cast<size_t>(running)];
  fiber.has_ended = true;
  leave(fiber);
  abort();  // nobody resumes what has ended
}

uint8_t* new_stack() {
  void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    fprintf(stderr, "no memory for the stack of an emulated thread\n");
    abort();
  }
  return static_cast<uint8_t*>(memory);
}

}  // namespace

void run_fibers(int count, const std::function<void(int)>& body, void (*stuck)()) {
  std::vector<Fiber>& all = fibers();
  if (all.size() < static_cast<size_t>(count)) all.resize(static_cast<size_t>(count));
  work = &body;
  for (int index = 0; index < count; ++index) {
    Fiber& fiber = all[static_cast<size_t>(index)];
    if (fiber.stack == nullptr) fiber.stack = new_stack();
#if defined(__SANITIZE_ADDRESS__)
    // The first function never returned, so its frame is still out of bounds.
    constexpr size_t kFirstFrameBytes = 4096;
    __asan_unpoison_memory_region(fiber.stack + kStackBytes - kFirstFrameBytes, kFirstFrameBytes);
#endif
    prepare(fiber.context, fiber.stack, enter);
    fiber.has_ended = false;
    fiber.sanitizer_state = nullptr;
  }
  for (int left = count; left > 0;) {
    const uint64_t before = progress;
    for (int index = 0; index < count; ++index) {
      if (all[static_cast<size_t>(index)].has_ended) continue;
      resume(index);
      if (all[static_cast<size_t>(index)].has_ended) --left;
    }
    if (left > 0 && progress == before) stuck();
  }
}

void pause_fiber() { leave(fibers()[static_cast<size_t>(running)]); }

void note_progress() { ++progress; }

}  // namespace emulated
