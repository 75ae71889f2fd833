// Functions that can stop in the middle and go on later, on stacks of their own: the threads of an
// emulated block. One after the other runs, on the thread that called; nothing interrupts one. It
// must not know what they compute.
#pragma once
#include <functional>

namespace emulated {

// Runs `count` fibers until all have ended: each calls body(index). They go on in turn after
// pause(). When a whole round brings nothing forward, `stuck` is called.
void run_fibers(int count, const std::function<void(int)>& body, void (*stuck)());

// Lets the others go on. Only from within a fiber.
void pause_fiber();

// Says that something has come forward; the end of a fiber says so too.
void note_progress();

}  // namespace emulated
